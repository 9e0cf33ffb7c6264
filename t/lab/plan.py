"""A plan of nine phases over the workloads of a real operator (t/data/workloads.tsv), weeks in seconds: a real API server with an
audit log, its controllers, a node that only says so, a registry, and keeld on a clock that the test moves.

What keeld wrote stands in the audit log; what came between two moves of the clock belongs to the moment between.
"""

import csv
import datetime
import json
import pathlib
import re

import yaml

from .day import Clock
from .keeld import Keeld
from .kubernetes import KEELD, ControllerManager, ControlPlane
from .nginx import CONF
from .registry import OCI_CONFIG, OCI_MANIFEST, Registry
from .status import StatusNode, _now
from .wait import wait_for
from .workloads import _workload, cronjob

ROWS = pathlib.Path(__file__).resolve().parents[1] / "data/workloads.tsv"
NODE = "told-1"
HOUR = datetime.timedelta(hours=1)
DAY = datetime.timedelta(days=1)
RESOURCES = {"Deployment": "deployments", "StatefulSet": "statefulsets", "DaemonSet": "daemonsets", "CronJob": "cronjobs"}


class Controllers(ControllerManager):
    """Those that make pods out of workloads, and as quick as the API server lets them."""

    def own(self):
        kinds = ("deployment", "replicaset", "statefulset", "daemonset")
        many = [f"--concurrent-{kind}-syncs=10" for kind in ("deployment", "replicaset", "statefulset", "daemonset")]
        names = ",".join(f"{kind}-controller" for kind in kinds)
        return [*super().own(), "--kube-api-qps=1000", "--kube-api-burst=2000", f"--controllers={names}", *many]


class ToldClock(Clock):
    """Remembers when it was told what."""

    def __init__(self, path):
        super().__init__(path)
        self.told = []

    def tell(self, moment):
        self.told.append((datetime.datetime.now(datetime.timezone.utc), moment))
        super().tell(moment)

    def shown_at(self, real):
        return [moment for told, moment in self.told if told <= real][-1]


class Node(StatusNode):
    """Pulls from a registry that has every repository, whatever the reference calls it."""

    def __init__(self, api, registry):
        super().__init__(api, {"any": registry.port}, NODE)

    def _pull(self, image):
        name, _, digest = image.partition("@")
        head, _, last = name.rpartition("/")
        last, _, tag = last.partition(":")
        host = head.split("/")[0]
        known = "." in host or ":" in host
        registry = host if known else "docker.io"
        path = (head[len(host) + 1 :] if known else head or "library").strip("/")
        repository = f"{path}/{last}" if path else last
        if digest:
            return f"{registry}/{repository}", digest
        agent = {"User-Agent": "containerd/1.6.20"}
        return f"{registry}/{repository}", self.caches["any"].manifest(repository, tag or "latest", "HEAD", headers=agent).digest


def rows():
    """{(kind, namespace, workload): rows of its containers}"""
    found = {}
    with open(ROWS, newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            found.setdefault((row["kind"], row["namespace"], row["workload"]), []).append(row)
    return found


def manifest(key, containers):
    """As his cluster has it: spelling, pull policy, replicas, strategy, policy and init containers. What a chart or an operator
    makes is the workload of it; Jobs and single pods are pods."""
    kind, namespace, name = key
    name = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")
    first = containers[0]
    main = {f"c{at}": row["image"] for at, row in enumerate(containers) if row["role"] == "main"} or {"c0": first["image"]}
    init = {f"i{at}": row["image"] for at, row in enumerate(containers) if row["role"] == "init"}
    template = {"containers": main, "init": init, "pull": first["pull_policy_effective"] or "IfNotPresent"}
    annotations = {"keel.sh/policy": first["keel_policy"]} if first["keel_policy"] else None
    if kind == "CronJob":
        return cronjob(namespace, name, None, annotations=annotations, **template)
    if kind == "Job" or kind.startswith("Pod"):
        template = cronjob(namespace, name, None, **template)["spec"]["jobTemplate"]["spec"]["template"]
        spec = {**template["spec"], "nodeName": NODE}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": spec}
    made = {"HelmRelease": "Deployment", "CNPGCluster": "StatefulSet"}.get(kind, kind)
    replicas = None if made == "DaemonSet" else int(first["replicas"] or 1)
    spec = {"serviceName": name} if made == "StatefulSet" else {}
    if made == "Deployment":
        spec = {"progressDeadlineSeconds": 60, "strategy": {"type": first["strategy"] or "RollingUpdate"}}
    item = _workload(made, namespace, name, None, replicas, annotations, None, template, spec)
    if kind == "CNPGCluster":
        owner = {"apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster", "name": name, "uid": "0", "controller": True}
        item["metadata"]["ownerReferences"] = [owner]
    item["spec"]["template"]["spec"]["nodeName"] = NODE
    return item


class Plan:
    """`change(name)`: settings of a phase over the usual ones. `count`: how many phases."""

    def __init__(self, folder, change, count=9):
        self.folder = folder
        self.workloads = rows()
        namespaces = sorted({row["namespace"] for all in self.workloads.values() for row in all if row["ns_enrolled"] == "yes"})
        size = -(-len(namespaces) // count)
        parts = [namespaces[at : at + size] for at in range(0, len(namespaces), size)]
        self.phases = {f"phase-{number}": part for number, part in enumerate(parts, 1)}
        self.phase_of = {ns: name for name, part in self.phases.items() for ns in part}
        self.versions = {}  # (repository, tag) → digest
        self.registry = Registry(folder / "registry")
        self.plane = ControlPlane(folder / "cp", audit=True, extra=["--disable-admission-plugins=ServiceAccount"])
        self.plane.components = [Controllers(folder / "cp", self.plane.api)]
        self.clock = ToldClock(folder / "clock")
        self.node = None
        self.change = change
        self.keeld = Keeld(folder / "keeld", {}, ["--clock", f"unix:{self.clock.path}"])

    # --- what there is ----------------------------------------------------------------------------------

    def push(self, label, *tags):
        """An image of that label under each (repository, tag)."""
        for repository, tag in tags:
            config = {"architecture": "amd64", "os": "linux", "config": {"Labels": {"version": label}},
                      "rootfs": {"type": "layers", "diff_ids": []}}  # fmt: skip
            data = json.dumps(config).encode()
            blob = {"mediaType": OCI_CONFIG, "digest": self.registry.put_blob(repository, data), "size": len(data)}
            image = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": blob, "layers": []}
            self.versions[repository, tag] = self.registry.put_manifest(repository, tag, image)

    def tags(self):
        return {(row["repository"], row["tag"] or "latest") for all in self.workloads.values() for row in all}

    def start(self):
        self.registry.start()
        self.plane.start()
        self.registry.wait_ready()
        self.push("old", *sorted(self.tags()))
        self.plane.wait_ready()
        self.kube = self.plane.api.client()
        for item in yaml.safe_load_all((CONF.parent / "kubernetes/rbac.yaml").read_text()):
            if item:
                self.kube.create(item)
        self.node = Node(self.plane.api, self.registry).start()
        for ns in sorted({key[1] for key in self.workloads}):
            if not self.kube.get("namespaces", None, ns):
                self.kube.namespace(ns)
        for key, containers in self.workloads.items():
            self.kube.create(manifest(key, containers))
        wait_for("every pod runs", self.all_run, 120, interval=0.5)
        self.first = self.generations()
        phases = [
            {"name": name, "namespaces": part, "soak": "7d", "advance": "auto", **self.change(name)}
            for name, part in self.phases.items()
        ]
        registries = sorted({row["registry"] for all in self.workloads.values() for row in all})
        direct = {"direct": self.registry.url, "upstream": self.registry.url, "requests": "unlimited"}
        self.keeld.write(
            {
                "kubernetes": {"kubeconfig": str(self.plane.api.kubeconfig(KEELD))},
                "registries": {name: direct for name in registries},
                "defaults": {"policy": "patch", "pollSchedule": "@every 24h"},
                "pacing": {"cluster": "5/h", "namespace": "2/h", "concurrent": 5},
                "phases": phases,
            }
        )
        return self

    def start_keeld(self):
        self.keeld.start()
        self.clock.accept()
        self.keeld.wait_ready()

    def restart_keeld(self, kill=False):
        if kill:
            self.keeld.kill()
        else:
            self.keeld.stop()
        self.start_keeld()

    def stop(self):
        self.keeld.stop()
        self.clock.close()
        if self.node:
            self.node.stop()
        self.plane.stop()
        self.registry.stop()

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_):
        self.stop()

    # --- what the cluster says --------------------------------------------------------------------------

    def items(self):
        return [{**item, "kind": kind} for kind, path in RESOURCES.items() for item in self.kube.list(path)]

    def generations(self):
        found = [(item["kind"], item["metadata"]) for item in self.items()]
        return {(kind, meta["namespace"], meta["name"]): meta["generation"] for kind, meta in found}

    def all_run(self):
        wanted = sum(item["spec"].get("replicas", 1) for item in self.items() if item["kind"] != "CronJob")
        running = [pod for pod in self.kube.list("pods") if pod["status"].get("phase") == "Running"]
        return len(running) >= wanted

    def writes(self):
        """[(moment that the clock showed, namespace, resource, name, status code)] of keeld's patches, in their order."""
        found = []
        for entry in self.plane.api.requests(KEELD, "patch"):
            place = entry["objectRef"]
            if place["resource"] in RESOURCES.values():
                real = datetime.datetime.fromisoformat(entry["requestReceivedTimestamp"].replace("Z", "+00:00"))
                found.append(
                    (self.clock.shown_at(real), place["namespace"], place["resource"], place["name"], entry["responseStatus"]["code"])
                )
        return sorted(found)

    # --- what keeld says --------------------------------------------------------------------------------

    def phase(self, name):
        return next(item for item in self.keeld.get("/v1/phases")["items"] if item["name"] == name)

    def waiting(self):
        """Rollouts that wait; None while any is under way or nothing is known of some."""
        found = [item for item in self.keeld.get("/v1/rollouts?limit=1")["items"] if not item["ended"]]
        plan = {"awaiting-pacing", "awaiting-window", "awaiting-group", "breaker-open"}
        if any(item["state"] != "waiting" or item["reason"] not in plan for item in found):
            return None
        return found

    def settle(self, name):
        """Until all has started that may at this moment, and has ended; gives the phase then."""

        def quiet():
            before = self.waiting()
            phase = self.phase(name)
            counts = phase["counts"]
            if before is None or (counts and (counts["unknown"] or counts["on_the_way"] > len(before))):
                return None
            return (phase, len(before)) if self.waiting() == before else None

        return wait_for(f"{name} at rest at {self.clock.now}", quiet, 60, interval=0.1)

    def pass_time(self, delta):
        self.clock.tell(self.clock.now + delta)

    def crash(self, namespace, name, crashing):
        """The pods of a Deployment are told to be in a crash loop, or to be well again."""
        waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "told"}}
        for pod in self.kube.pods(namespace, name):
            statuses = pod["status"]["containerStatuses"]
            for status in statuses:
                status["state"] = waiting if crashing else {"running": {"startedAt": _now()}}
                status["ready"] = not crashing
            self.kube.patch("pods", namespace, pod["metadata"]["name"], {"status": {"containerStatuses": statuses}}, "merge", "status")
