"""A lab for what happens to keeld, not to containers: everything is real but the kubelet (status.py), and a proxy that can
fail stands between keeld and the API server (cut.py). Rollouts take a second; no root is needed.
"""

import collections
import contextlib
import itertools
import json
import sqlite3

import yaml

from .cut import PASS, CutProxy
from .keeld import Keeld
from .kubernetes import KEELD
from .lab import REGISTRY, Lab
from .registry import RegistryClient
from .status import StatusNode
from .wait import NotYet, wait_for
from .workloads import deployment

RESTARTED = "kubectl.kubernetes.io/restartedAt"


class Stage(Lab):
    """keeld asks the API server through `proxy`; its look-ups come every second, its pacing is unlimited."""

    def __init__(self, **options):
        self.proxy = self.told = None
        self.variants = itertools.count(1)
        self.seed = None
        self.mounted = set()  # repositories that hold it
        gates = {"extra": ["--feature-gates=ImageVolume=true"]}
        super().__init__(nodes=0, keeld={}, audit=True, before_keeld=self._prepare, api_options=gates, **options)

    def _prepare(self, _):
        self.told = StatusNode(self.api, {REGISTRY: self.nginx.nodes[REGISTRY]}).start()
        self.proxy = CutProxy(self.api)
        self.keeld_settings = {"kubernetes": {"kubeconfig": str(self.through_proxy())}}
        self.seed = self.push("stage/seed", "1", "seed").digest

    def stop(self):
        if self.keeld:
            self.keeld.stop()
        for part in (self.proxy, self.told):
            if part:
                part.stop()
        super().stop()

    def through_proxy(self, proxy=None):
        """A kubeconfig of keeld's account that leads through a proxy."""
        proxy = proxy or self.proxy
        config = yaml.safe_load(self.api.kubeconfig(KEELD).read_text())
        config["clusters"][0]["cluster"] = {"server": proxy.url}
        path = self.folder / f"kubeconfig-{proxy.port}"
        path.write_text(yaml.safe_dump(config))
        path.chmod(0o600)
        return path

    def another_keeld(self, name, change=None):
        """Not started; a configuration like the first one's, a ledger and sockets of its own."""
        own = {"ledger": {"path": str(self.folder / name / "ledger.db")}, **(change or {})}
        config = {key: value for key, value in self.keeld.config.items() if key not in ("listen", "ledger")}
        return Keeld(self.folder / name, {**config, **own})

    def all_well(self):
        """Everything up, nothing in the way, keeld with its usual settings."""
        self.proxy.rule = lambda request: PASS
        self.proxy.opened.set()
        self.told.release()
        self.told.crashing = set()
        for server in self.servers:
            if not server.running():
                server.start().wait_ready()
        wait_for("keeld leads", lambda: self.keeld.get("/v1/status")["leader"]["held"], 60)

    # Tags and workloads

    def move(self, repository, tag="latest", **claims):
        """Another digest under the tag, upstream; nobody has asked for it yet. claims: of put_variant()."""
        label = next(self.variants)
        if repository not in self.mounted:
            self._mount(repository)
        return self.upstream.put_variant(repository, self.seed, label, reference=tag, **claims)

    def _mount(self, repository):
        """The seed in another repository."""
        manifest = self.upstream.manifest("stage/seed", self.seed)
        for blob in [manifest.json["config"], *manifest.json["layers"]]:
            self.upstream.put_blob(repository, self.upstream.blob("stage/seed", blob["digest"]))
        self.upstream.put_manifest(repository, "seed", manifest.body)
        self.mounted.add(repository)

    def pull(self, repository, tag="latest"):
        """Asks the cache as a kubelet does: nginx sees what the tag answers now."""
        cache = RegistryClient(self.nginx.nodes[REGISTRY])
        return cache.manifest(repository, tag, headers={"User-Agent": "containerd/1.6.20"}).digest

    def deploy(self, namespace, name, repository, replicas=1, tag="latest", annotations=None):
        """A Deployment on repository:tag, rolled out and known to keeld as current; the namespace is made if needed."""
        if not self.kube.get("namespaces", None, namespace):
            self.kube.namespace(namespace, labels={"keel.sh/enrolled": "true"})
        if repository not in self.mounted:
            self.move(repository, tag)
        item = deployment(namespace, name, self.image(f"{repository}:{tag}"), replicas, annotations=annotations)
        item["spec"]["revisionHistoryLimit"] = 1000
        self.kube.create(item)
        self.kube.wait_rolled_out(namespace, name)
        if self.keeld.running():
            self.wait_current(namespace, name)

    def wait_current(self, namespace, name, digest=None, deadline=60, keeld=None):
        """keeld says that the workload is current, and (where a digest is named) runs that and nothing else."""

        seen = {}

        def current():
            status, body = (keeld or self.keeld).request("GET", f"/v1/workloads/Deployment/{namespace}/{name}")
            seen["last"] = body
            if status != 200 or body["verdict"] != "current" or body["rollout"]:
                return None
            running = [one["digest"] for one in body["containers"][0]["running"]]
            return body if digest is None or running == [digest] else None

        try:
            return wait_for(f"{namespace}/{name} current at {digest}", current, deadline, interval=0.05)
        except NotYet as error:
            raise NotYet(f"{error}\n{seen}") from None

    def rollouts(self, namespace, name, keeld=None):
        """What keeld has under way for the workload."""
        items = (keeld or self.keeld).get("/v1/rollouts")["items"]
        return [item for item in items if item["workload"] == f"Deployment/{namespace}/{name}"]

    def wait_state(self, namespace, name, state, deadline=60, keeld=None):
        def there():
            return next((one for one in self.rollouts(namespace, name, keeld) if one["state"] == state), None)

        return wait_for(f"{namespace}/{name} {state}", there, deadline)

    # Witnesses

    def patches(self, namespace=None, name=None):
        """Patches of keeld that the API server accepted, from its audit log."""
        found = []
        for entry in self.api.requests(user=KEELD, verb="patch", resource="deployments"):
            about = entry["objectRef"]
            if entry["responseStatus"]["code"] == 200 and namespace in (None, about["namespace"]):
                if name in (None, about["name"]):
                    found.append(entry)
        return found

    def revisions(self, namespace, name):
        """The ReplicaSets of a Deployment in the order of their revisions."""
        own = self.kube.list("replicasets", namespace, f"app={name}")
        return sorted(own, key=lambda item: int(item["metadata"]["annotations"]["deployment.kubernetes.io/revision"]))

    def revision_images(self, namespace, name):
        """The image of each revision's first container."""
        return [item["spec"]["template"]["spec"]["containers"][0]["image"] for item in self.revisions(namespace, name)]

    def markers(self, namespace, name):
        """{marker of a revision: its ReplicaSet}, in the order of revisions; the first one has none ("")."""
        found = {}
        for item in self.revisions(namespace, name):
            marker = (item["spec"]["template"]["metadata"].get("annotations") or {}).get(RESTARTED, "")
            assert marker not in found, f"two revisions of {namespace}/{name} with the marker {marker!r}"
            found[marker] = item
        return found

    def exactly_once(self, namespace, name, keeld=None):
        """Every restart of a workload was intended before it was written, was written once, and no target twice.

        Compares the ledger, the API server's audit log and the ReplicaSets; returns {target digest: marker}.
        """
        keeld = keeld or self.keeld
        wait_for("the ledger is written", lambda: keeld.get("/v1/status")["ledger"]["queued"] == 0)
        ledger = Ledger(keeld.ledger)
        workload = f"Deployment/{namespace}/{name}"
        entries = [one for one in ledger.entries() if one["workload"] == workload]
        rows = {row["id"]: row for row in ledger.rollouts() if row["workload"] == workload}
        written = [marker for marker in self.markers(namespace, name) if marker]
        assert len(self.patches(namespace, name)) == len(written), (written, self.patches(namespace, name))
        by_marker = {row["marker"]: row for row in rows.values() if row["marker"]}
        assert set(written) <= set(by_marker), f"written without an intent: {set(written) - set(by_marker)}"
        applied = [one for one in entries if one["kind"] == "applied"]
        assert sorted(rows[one["rollout"]]["marker"] for one in applied) == sorted(written)
        for one in applied:
            intent = [two for two in entries if two["kind"] == "intended" and two["rollout"] == one["rollout"]]
            assert len(intent) == 1 and intent[0]["seq"] < one["seq"] and intent[0]["to"] == one["to"]
        twice = {digest: n for digest, n in collections.Counter(one["to"] for one in applied).items() if n > 1}
        assert not twice, f"{workload}: targets applied more than once: {twice}"
        assert not [row for row in rows.values() if row["ended"] == 0], "a rollout is still open"
        ended = {one["rollout"] for one in entries if one["kind"] == "outcome"}
        assert set(rows) <= ended, "a rollout without an outcome in the log"
        return {one["to"]: rows[one["rollout"]]["marker"] for one in applied}


class Ledger:
    """keeld's ledger as sqlite3 reads it, also while keeld runs; nothing is changed, nothing recovered."""

    def __init__(self, path):
        self.path = path

    def rows(self, query, *values):
        with contextlib.closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=10)) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(query, values)]

    def entries(self, kind=None):
        return self.rows("SELECT * FROM entries WHERE ?1 IS NULL OR kind = ?1 ORDER BY seq", kind)

    def rollouts(self):
        found = self.rows("SELECT * FROM rollouts ORDER BY n")
        return [{**row, "targets": json.loads(row["targets"])} for row in found]

    def sound(self):
        return self.rows("PRAGMA integrity_check") == [{"integrity_check": "ok"}]
