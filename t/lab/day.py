"""One day in a minute: workloads on a real API server, five real registries with their access logs, and keeld on a clock
that stands still until it is told to move. A cache with the module is before the first registry; the others are asked
directly.

What a registry was asked stands in its log; what came between two moves of the clock belongs to the moment between.
"""

import collections
import datetime
import json
import re
import socket

import yaml

from .keeld import Keeld
from .kubernetes import KEELD, ControlPlane
from .nginx import CONF, Nginx
from .registry import OCI_CONFIG, OCI_MANIFEST, Registry
from .workloads import deployment

CACHE = "cache-a"
REGISTRIES = [f"registry-{number}.example" for number in range(5)]
CONTAINERS = 20  # of a workload
START = datetime.datetime(2026, 11, 22, tzinfo=datetime.timezone.utc)
LINE = re.compile(r'"(?P<method>[A-Z]+) /v2/(?P<path>\S*) HTTP/1\.[01]" (?P<status>\d+) \S+ "[^"]*" "(?P<agent>[^"]*)"')
KUBELET = "containerd/1.6.20"

# What twenty blocks of tags have in common: annotations of the workloads, names of a repository's tags, blocks of it.
FORCE, ORDERED, VERSIONS, PATTERN = "force", "force-ordered", "patch", "glob"
BLOCKS = [FORCE] * 8 + [ORDERED] * 6 + [VERSIONS] * 5 + [PATTERN]
NAMES = {
    FORCE: ["latest", "stable", "edge", "nightly"],
    ORDERED: ["1.0.0", "1.1.0", "8-alpine", "3.4"],
    VERSIONS: ["1.0.0", "1.1.0", "2.0.0", "3.0.0"],
    PATTERN: ["build-1", "build-2", "build-3", "build-4"],
}
POLICIES = {FORCE: "force", ORDERED: "force", VERSIONS: "patch", PATTERN: "glob:build-*"}

Asked = collections.namedtuple("Asked", "at kind tag agent status")


class Clock:
    """What keeld reads with --clock."""

    def __init__(self, path):
        self.path = path
        self.now = START
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(1)
        self.listener.settimeout(60)
        self.peer = self.lines = None

    def accept(self):
        """keeld has been started: it gets its first time."""
        self.close_peer()
        self.peer, _ = self.listener.accept()
        self.peer.settimeout(60)
        self.lines = self.peer.makefile("r")
        self.tell(self.now)

    def tell(self, moment):
        """Returns once keeld has asked for what is due by then."""
        self.now = moment
        text = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self.peer.sendall(f"{text}\n".encode())
        answer = self.lines.readline().strip()
        assert answer == text, f"keeld took {answer or 'nothing'} for {text}; its log tells more"

    def close_peer(self):
        if self.peer:
            self.lines.close()
            self.peer.close()
            self.peer = None

    def close(self):
        self.close_peer()
        self.listener.close()


class Day:
    """blocks × 20 tags in 25 workloads each: 400 tags and 10,000 containers with 20 blocks and 500 workloads."""

    def __init__(self, folder, workloads, blocks=BLOCKS, schedule="@every 1h", settings=None, tell=lambda text: None):
        self.folder, self.count, self.blocks, self.tell = folder, workloads, blocks, tell
        folder.mkdir(parents=True, exist_ok=True)
        self.registries = {name: Registry(folder / name, access_log=True) for name in REGISTRIES}
        self.plane = ControlPlane(folder / "cp", controllers=False)
        self.clock = Clock(folder / "clock")
        self.keeld = Keeld(folder / "keeld", {"mode": "observe"}, ["--clock", f"unix:{self.clock.path}"])
        self.nginx = Nginx(
            folder / "nginx", {REGISTRIES[0]: self.registries[REGISTRIES[0]].port},
            companion=self.keeld.events_url, secret=self.keeld.secret, cache=CACHE,
        )  # fmt: skip
        direct = {name: {"direct": registry.url, "requests": "unlimited"} for name, registry in self.registries.items()}
        self.keeld.write(
            {
                "kubernetes": {"kubeconfig": str(self.plane.api.kubeconfig(KEELD))},
                "caches": [{"name": CACHE, "api": self.nginx.api_url, "lookup": self.nginx.lookup_url}],
                "registries": {**direct, REGISTRIES[0]: {"through": CACHE, "requests": "unlimited"}},
                "defaults": {"pollSchedule": schedule},
                **(settings or {}),
            }
        )
        self.read = {name: 0 for name in REGISTRIES}  # bytes of each log
        self.asked = []  # all that the registries were asked

    # --- what there is ----------------------------------------------------------------------------------

    def tags(self, block):
        """The 20 tags of a block: (registry, repository, name), four in a repository."""
        names = NAMES[self.blocks[block]]
        return [(registry, f"block-{block}/app", name) for registry in REGISTRIES for name in names]

    @property
    def all_tags(self):
        return [tag for block in range(len(self.blocks)) for tag in self.tags(block)]

    def repositories(self, *kinds):
        """How many have workloads of these kinds."""
        return len(REGISTRIES) * sum(kind in kinds for kind in self.blocks)

    def push(self, registry, repository, *names):
        """One small image under all these names, in the repository of that registry; its digest."""
        server = self.registries[registry]
        data = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
        config = {"mediaType": OCI_CONFIG, "digest": server.put_blob(repository, data), "size": len(data)}
        manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": []}
        return [server.put_manifest(repository, name, manifest) for name in names][-1]

    def manifest(self, number):
        block = number % len(self.blocks)
        images = {f"c{at}": f"{registry}/{path}:{name}" for at, (registry, path, name) in enumerate(self.tags(block))}
        annotations = {"keel.sh/policy": POLICIES[self.blocks[block]]}
        return deployment(f"day-{number % 10}", f"app-{number}", None, 1, annotations=annotations, containers=images)

    def start(self):
        for server in self.registries.values():
            server.start()
        self.plane.start()
        for server in self.registries.values():
            server.wait_ready()
        self.tell("tags")
        for block in range(len(self.blocks)):
            for registry in REGISTRIES:
                self.push(registry, f"block-{block}/app", *NAMES[self.blocks[block]])
        self.nginx.start().wait_ready()
        self.plane.wait_ready()
        self.kube = self.plane.api.client()
        rights = (CONF.parent / "kubernetes/rbac.yaml").read_text()
        for item in yaml.safe_load_all(rights):
            if item:
                self.kube.create(item)
        self.tell(f"{self.count} workloads")
        for number in range(min(10, self.count)):
            self.kube.namespace(f"day-{number}", {"keel.sh/enrolled": "true"})
        for number in range(self.count):
            self.kube.create(self.manifest(number))
        self.listen()
        self.tell("keeld")
        self.start_keeld()
        return self

    def start_keeld(self):
        self.keeld.start()
        self.clock.accept()
        self.keeld.wait_ready()
        self.wait_asked()

    def stop(self):
        self.keeld.stop()
        self.clock.close()
        self.nginx.stop()
        self.plane.stop()
        for server in self.registries.values():
            server.stop()

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_):
        self.stop()

    # --- time passes ------------------------------------------------------------------------------------

    def metric(self, name):
        return float(re.search(rf"^{name} (\S+)$", self.keeld.get("/metrics"), re.MULTILINE)[1])

    def wait_asked(self):
        """Until keeld has asked for everything that is due now, and the logs have been read."""
        self.clock.tell(self.clock.now)
        return self.listen()

    def pass_time(self, **delta):
        """The clock moves on by that; gives what the registries were asked then."""
        self.clock.tell(self.clock.now + datetime.timedelta(**delta))
        return self.listen()

    def kubelet_asks(self, repository, name):
        """Through the cache, as containerd does."""
        registry = REGISTRIES[0]
        got = self.nginx.through(registry).manifest(
            repository, name, "HEAD", f"?ns={registry}", headers={"User-Agent": KUBELET}
        )
        assert got.status == 200, got

    def listen(self):
        """Reads on in the logs; what is new there came at the moment that the clock shows."""
        new = []
        for name, server in self.registries.items():
            with open(server.log, "rb") as log:
                log.seek(self.read[name])
                data = log.read()
            data = data[: data.rfind(b"\n") + 1]
            self.read[name] += len(data)
            for found in LINE.finditer(data.decode(errors="replace")):
                new.append(self.classify(name, found))
        self.asked += [item for item in new if item]
        return [item for item in new if item]

    def classify(self, registry, found):
        path, kind, tag = found["path"].split("?")[0], "other", None
        if "/manifests/" in path:
            repository, name = path.split("/manifests/")
            kind = {"HEAD": "look-up"}.get(found["method"], "content")
            tag = (registry, repository, name)
            if found["method"] == "PUT":
                return None
        elif path.endswith("/tags/list"):
            kind, tag = "list", (registry, path.removesuffix("/tags/list"))
        elif found["method"] not in ("GET", "HEAD") or not path or "/blobs/" in path:
            return None
        return Asked(self.clock.now, kind, tag, found["agent"].split("/")[0], int(found["status"]))

    def of(self, kind, since=None):
        """What keeld asked of that kind."""
        return [item for item in self.asked if item.kind == kind and item.agent == "keeld" and (not since or item.at >= since)]
