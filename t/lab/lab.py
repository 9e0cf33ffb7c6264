"""Registry, pull-through, nginx with the module, control plane, nodes and keeld in one."""

import contextlib
import pathlib
import shutil
import signal
import sys
import tempfile

import yaml

from .client import KINDS, plural
from .images import Images
from .keeld import Keeld, merged
from .kubernetes import KEELD, ControlPlane, Proxy
from .machine import Machine
from .nginx import Nginx, new_secret
from .node import Node
from .registry import Registry
from .wait import wait_for

ROOT = pathlib.Path(__file__).resolve().parents[2]
REGISTRY = "registry.example"
CACHE = "cache-a"
# In the order in which they go: first what makes pods.
WORKLOADS = ["cronjobs", "jobs", "deployments", "statefulsets", "daemonsets", "replicasets", "pods"]


def end_on_signals():
    """SIGTERM and SIGHUP end the program as Ctrl-C does: by an exception that passes every `with`.

    SIGINT as well: a program that a shell started in the background was told to ignore it.
    """

    def end(number, _):
        raise KeyboardInterrupt(signal.Signals(number).name)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)


@contextlib.contextmanager
def undisturbed():
    """Putting the machine back is not interrupted by a second Ctrl-C."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Lab:
    """
    nodes: how many kubelets with a containerd each (they need root); 0: API only.
    controllers: controller-manager and scheduler.
    cache: registries, and nginx in front of them. module: see Nginx.
    keeld: settings over the lab's own keeld.yaml; None: no keeld. audit: keep the API server's audit log.
    tell: called with a line for each step. keep: leave the folder.
    cluster: the kubeconfig of a cluster that is there, to be used instead of one of our own; then cache_at is the
    (host, port) where nginx listens and the nodes ask, and images are named after it.
    also: more names of registries that the same pull-through serves, for other spellings of references.
    before_keeld: called with the lab when everything but keeld runs. before_stop: when keeld has
    ended and nothing else has.

    with Lab(nodes=1) as lab:
        pushed = lab.push("demo/app", "latest", "one")       # → image registry.example/demo/app:latest
        lab.kube.create(deployment("demo", "app", lab.image("demo/app:latest")))
    """

    def __init__(self, nodes=1, controllers=True, cache=True, module=True, keeld=None, audit=False, folder=None,
                 tell=None, keep=False, api_options=None, cluster=None, cache_at=None,
                 also=(), before_keeld=None, before_stop=None):  # fmt: skip
        self.folder = pathlib.Path(folder or tempfile.mkdtemp(prefix="ngx-keel-"))
        self.folder.mkdir(exist_ok=True)
        self.folder.chmod(0o711)  # nginx's workers pass through
        self.tell = tell or (lambda line: None)
        self.keep = keep
        if cluster:
            nodes = 0
        self.cache_at, self.before_keeld, self.before_stop = cache_at, before_keeld, before_stop
        self.registry = f"{cache_at[0]}:{cache_at[1]}" if cache_at else REGISTRY
        self.registries = [self.registry, *also]
        self.machine = Machine() if nodes else None
        self.images = Images(self.folder / "images")
        self.upstream = Registry(self.folder / "registry", "upstream")
        self.pause = f"127.0.0.1:{self.upstream.port}/lab/pause:1"
        self.through = self.nginx = self.keeld = None
        names = [f"node-{number + 1}" for number in range(nodes)]
        if cluster:
            self.plane = None
            self.api = Proxy(self.folder / "cluster", cluster)
        else:
            self.plane = ControlPlane(
                self.folder / "control-plane", controllers, audit=audit, nodes=names, **(api_options or {})
            )
            self.api = self.plane.api
        self.cache, self.module, self.keeld_settings = cache, module, keeld
        self.node_names = names
        self.nodes = []
        self.kube = None
        self.stopped = False
        self.last_words = ""  # of the servers, when they could not be started

    @property
    def node(self):
        return self.nodes[0]

    @property
    def servers(self):
        parts = [self.upstream, self.through, self.nginx, *(self.plane.servers if self.plane else [self.api])]
        for node in self.nodes:
            parts += node.servers
        return [server for server in [*parts, self.keeld] if server]

    def image(self, name):
        """The name that nodes pull through nginx."""
        return f"{self.registry}/{name}"

    def push(self, repository, tag, version, **options):
        """A new image with that content under the tag, upstream; see Images.push."""
        return self.images.push(self.upstream, repository, tag, version, **options)

    def start(self):
        """Starts everything and waits until it works; what was started is stopped again when one part fails."""
        try:
            self._start()
        except BaseException:
            self.last_words = self.tails()
            self.stop()
            raise
        return self

    def _start(self):
        if self.machine:
            self.machine.__enter__()
        self.tell("registry, control plane")
        self.upstream.start()
        (self.plane or self.api).start()  # an API server takes longest; the rest comes up meanwhile
        self.upstream.wait_ready()
        self.push("lab/pause", "1", "pause")
        secret = new_secret(self.folder / "events.secret")
        if self.cache:
            self.tell("pull-through registry, nginx")
            self.through = Registry(self.folder / "through", "through", proxy_of=self.upstream.url)
            self.through.start().wait_ready()
            if self.keeld_settings is not None:
                self.keeld = Keeld(self.folder / "keeld", {"events": {"secret": str(secret)}})
            self.nginx = Nginx(
                self.folder / "nginx",
                {name: self.through.port for name in self.registries},
                companion=self.keeld.events_url if self.keeld else None,
                secret=secret,
                cache=CACHE,
                module=self.module,
                address=self.cache_at,
            )
            self.nginx.start().wait_ready()
        (self.plane or self.api).wait_ready()
        self.kube = self.api.client()
        mirrors = {name: self.nginx.url(name) if self.nginx else self.upstream.url for name in self.registries}
        if self.node_names:
            self.tell(f"{len(self.node_names)} node{'s' if len(self.node_names) > 1 else ''}")
        for name in self.node_names:
            self.nodes.append(Node(self.folder / name, self.api, self.pause, mirrors, name))
            self.nodes[-1].start()
        for node in self.nodes:
            node.wait_ready()
        if self.before_keeld:
            self.before_keeld(self)
        if self.keeld:
            self.tell("keeld")
            if self.plane:
                self.grant_keeld()
            self.keeld.write(merged(self.keeld_base(), self.keeld_settings))
            self.keeld.start().wait_ready()

    def keeld_base(self):
        """keeld.yaml of a lab: everything that names a part of it."""
        return {
            "kubernetes": {
                "kubeconfig": str(self.api.kubeconfig(KEELD) if self.plane else self.api.kubeconfig),
                "lease": {"namespace": "keel", "name": "keeld"},
            },
            "caches": [
                {
                    "name": CACHE,
                    "api": self.nginx.api_url,
                    "secret": str(self.nginx.api_secret),
                    "lookup": self.nginx.lookup_url,
                }
            ],
            "registries": {name: {"through": CACHE, "upstream": self.upstream.url} for name in self.registries},
            "defaults": {"pollSchedule": "@every 1s"},
            "pacing": "unlimited",
        }

    def grant_keeld(self):
        """The namespace of its Lease, and exactly the rights that the shipped manifest gives."""
        self.apply(ROOT / "conf/kubernetes/rbac.yaml")

    def apply(self, path):
        """Creates what a manifest holds; what is there already stays."""
        for item in yaml.safe_load_all(pathlib.Path(path).read_text()):
            if item and plural(item["kind"]) in KINDS:
                meta = item["metadata"]
                if not self.kube.get(item["kind"], meta.get("namespace"), meta["name"]):
                    self.kube.create(item)

    def running(self, namespace=None, pod_prefix=""):
        """Running containers of pods on all nodes, as their containerds know them (Containerd.containers)."""
        found = []
        for node in self.nodes:
            for item in node.containerd.containers():
                if namespace in (None, item["namespace"]) and item["pod"].startswith(pod_prefix):
                    found.append({**item, "node": node.name})
        return found

    def content(self, container):
        """What /version says in a container of running()."""
        node = next(node for node in self.nodes if node.name == container["node"])
        return node.containerd.read_file(container["id"], "/version").strip()

    def delete_workloads(self, deadline=60.0):
        """Deletes every workload outside kube-system and waits until no pod is left."""
        client = self.api.client()
        for kind in WORKLOADS:
            for item in client.list(kind):
                client.delete(kind, item["metadata"]["namespace"], item["metadata"]["name"], grace=1)
        wait_for("pods gone", lambda: not client.list("pods"), deadline, interval=0.1)
        client.close()

    def stop(self):
        """Ends everything in order and puts the machine back. Safe to call again."""
        if self.stopped:
            return
        self.stopped = True
        with undisturbed():
            if self.keeld:
                self.keeld.stop()
            if self.before_stop:
                try:
                    self.before_stop(self)
                except (AssertionError, OSError) as error:
                    print(f"not cleaned up: {error}", file=sys.stderr)
            # Without its node a pod does not go away; then the node's own cleaning has to do.
            if self.nodes and self.api.running() and all(s.running() for node in self.nodes for s in node.servers):
                with contextlib.suppress(AssertionError, OSError):
                    self.delete_workloads()
            for node in reversed(self.nodes):
                node.stop()
            (self.plane or self.api).stop()
            for server in (self.nginx, self.through, self.upstream):
                if server:
                    server.stop()
            if self.machine:
                self.machine.__exit__()
            if not self.keep:
                shutil.rmtree(self.folder, ignore_errors=True)

    def tails(self):
        return "\n".join(server.tail() for server in self.servers)

    def __enter__(self):
        try:
            return self.start()
        except Exception:
            print(self.last_words, file=sys.stderr)
            raise

    def __exit__(self, kind, *_):
        if kind is not None and not issubclass(kind, KeyboardInterrupt):
            print(self.tails(), file=sys.stderr)
        self.stop()
