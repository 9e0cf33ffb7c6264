"""A control plane on loopback."""

import functools
import json
import os
import pathlib
import secrets
import ssl
import urllib.request

import yaml

from .client import Client
from .etcd import Etcd
from .ports import free_port
from .process import Server, run

ROOT = pathlib.Path(__file__).resolve().parents[2]


def audited(line):
    """An entry of the audit log; what is only tried has the verb dry-run."""
    entry = json.loads(line)
    return {**entry, "verb": "dry-run"} if "dryRun=All" in entry["requestURI"] else entry


@functools.lru_cache
def binary(name):
    """A Kubernetes program; KEEL_KUBERNETES names the folder where it is not this user's cache."""
    folder = os.environ.get("KEEL_KUBERNETES") or run(ROOT / "t/k8s/build", "--path").strip()
    return pathlib.Path(folder) / "bin" / name


# Users of the token file: name, groups. keeld comes as the service account that its manifests name.
KEELD = "system:serviceaccount:keel:keeld"
USERS = {
    "admin": ["system:masters"],
    "system:kube-controller-manager": [],
    "system:kube-scheduler": [],
    KEELD: ["system:serviceaccounts", "system:serviceaccounts:keel"],
}

# What keeld writes to workloads is kept with every byte.
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "Request", "users": [KEELD], "verbs": ["patch"], "resources": [{"group": "apps"}, {"group": "batch"}]},
        {"level": "Metadata"},
    ],
}


class ApiServer(Server):
    name = "kube-apiserver"
    stop_deadline = 3.0  # open watches would keep it for a minute

    def __init__(self, folder, etcd, audit=False, extra=(), nodes=("node-1",), users=None):
        """audit: keep an audit log. extra: more command line. users: {name: [groups]} beside the usual ones."""
        super().__init__(folder)
        self.etcd, self.audit, self.extra = etcd, audit, list(extra)
        self.port = free_port()
        self.tokens = {}
        everybody = {**USERS, **{f"system:node:{node}": ["system:nodes"] for node in nodes}, **(users or {})}
        lines = []
        for number, (user, groups) in enumerate(everybody.items()):
            self.tokens[user] = secrets.token_hex(16)
            lines.append(f'{self.tokens[user]},{user},{number},"{",".join(groups)}"\n')
        (self.folder / "tokens.csv").write_text("".join(lines))
        (self.folder / "audit-policy.yaml").write_text(yaml.safe_dump(AUDIT_POLICY))
        run("openssl", "genrsa", "-out", self.folder / "sa.key", "2048")

    @property
    def ca(self):
        """The server signs its own certificate, which thereby is the authority as well."""
        return self.folder / "certs" / "apiserver.crt"

    @property
    def url(self):
        return f"https://127.0.0.1:{self.port}"

    @property
    def audit_log(self):
        return self.folder / "audit.log"

    def command(self):
        audit = [f"--audit-policy-file={self.folder}/audit-policy.yaml", f"--audit-log-path={self.audit_log}"]
        return [
            binary("kube-apiserver"), f"--etcd-servers={self.etcd.url}",
            "--bind-address=127.0.0.1", f"--secure-port={self.port}", f"--cert-dir={self.folder}/certs",
            "--endpoint-reconciler-type=none", "--advertise-address=127.0.0.1",
            f"--token-auth-file={self.folder}/tokens.csv", "--authorization-mode=Node,RBAC",
            "--service-account-issuer=https://lab.invalid", f"--service-account-key-file={self.folder}/sa.key",
            f"--service-account-signing-key-file={self.folder}/sa.key",
            "--service-cluster-ip-range=10.96.0.0/24", "--allow-privileged=true", "--profiling=false",
            *(audit if self.audit else []), *self.extra,
        ]  # fmt: skip

    def ready(self):
        if not self.ca.exists():
            return False
        context = ssl.create_default_context(cafile=str(self.ca))
        request = urllib.request.Request(f"{self.url}/readyz")
        request.add_header("Authorization", f"Bearer {self.tokens['admin']}")
        with urllib.request.urlopen(request, timeout=2, context=context) as answer:
            return answer.status == 200

    def client(self, user="admin"):
        return Client("127.0.0.1", self.port, self.ca, self.tokens[user])

    def kubeconfig(self, user="admin"):
        """The path of a kubeconfig for that user; written once the server has made its certificate."""
        path = self.folder / f"kubeconfig-{user.replace(':', '-')}"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": {"server": self.url, "certificate-authority": str(self.ca)}}],
            "users": [{"name": user, "user": {"token": self.tokens[user]}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
            "current-context": "lab",
        }
        path.write_text(yaml.safe_dump(config))
        path.chmod(0o600)
        return path

    def requests(self, user=None, verb=None, resource=None):
        """Audit log entries (one a request, when it was answered), narrowed by user, verb and resource."""
        found = []
        for line in self.audit_log.read_text().splitlines():
            entry = audited(line)
            if entry["stage"] not in ("ResponseComplete", "ResponseStarted"):
                continue
            if entry["stage"] == "ResponseStarted" and entry["verb"] != "watch":
                continue
            reference = entry.get("objectRef", {})
            if user in (None, entry["user"].get("username")) and verb in (None, entry["verb"]):
                if resource in (None, reference.get("resource")):
                    found.append(entry)
        return found


class Proxy(Server):
    """A cluster that is there already, whatever its kubeconfig needs to get in: kubectl knows all of it."""

    name = "kubectl-proxy"

    def __init__(self, folder, kubeconfig):
        super().__init__(folder)
        self.kubeconfig = pathlib.Path(kubeconfig).resolve()
        self.port = free_port()

    def command(self):
        return [binary("kubectl"), f"--kubeconfig={self.kubeconfig}", "proxy", f"--port={self.port}"]

    def ready(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/version", timeout=10) as answer:
            return answer.status == 200

    def client(self):
        return Client("127.0.0.1", self.port)


class _Component(Server):
    def __init__(self, folder, api):
        super().__init__(folder)
        self.api = api
        self.port = free_port()

    def ready(self):
        context = ssl._create_unverified_context()  # its certificate is made for nobody
        with urllib.request.urlopen(f"https://127.0.0.1:{self.port}/healthz", timeout=2, context=context) as answer:
            return answer.status == 200

    def command(self):
        kubeconfig = self.api.kubeconfig(f"system:{self.name}")
        return [
            binary(self.name), f"--kubeconfig={kubeconfig}", f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}", "--bind-address=127.0.0.1", f"--secure-port={self.port}",
            f"--cert-dir={self.folder}/certs-{self.name}", "--leader-elect=false", *self.own(),
        ]  # fmt: skip


class ControllerManager(_Component):
    name = "kube-controller-manager"

    def own(self):
        return [
            "--use-service-account-credentials=true", f"--root-ca-file={self.api.ca}",
            f"--service-account-private-key-file={self.api.folder}/sa.key", "--allocate-node-cidrs=false",
        ]  # fmt: skip


class Scheduler(_Component):
    name = "kube-scheduler"

    def own(self):
        return []


class ControlPlane:
    """etcd and an API server; with controllers=True also what makes pods out of workloads."""

    def __init__(self, folder, controllers=True, **api_options):
        folder = pathlib.Path(folder)
        self.etcd = Etcd(folder)
        self.api = ApiServer(folder, self.etcd, **api_options)
        self.components = [ControllerManager(folder, self.api), Scheduler(folder, self.api)] if controllers else []

    @property
    def servers(self):
        return [self.etcd, self.api, *self.components]

    def start(self):
        self.etcd.start().wait_ready()
        self.api.start()
        return self

    def wait_ready(self, deadline=90.0):
        self.api.wait_ready(deadline)
        for component in self.components:
            component.start()
        for component in self.components:
            component.wait_ready(deadline)
        return self

    def stop(self):
        for server in reversed(self.servers):
            server.stop()

    def __enter__(self):
        try:
            return self.start().wait_ready()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_):
        self.stop()
