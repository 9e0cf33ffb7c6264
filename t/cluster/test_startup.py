"""Starting keeld: what is wrong is said before anything runs, with the thing, the place and what to do; exit code 2.

Also its end, reading the configuration again, and the ways to get into a cluster. An API server and etcd, no pods.
"""

import contextlib
import copy
import itertools
import pathlib
import signal
import socket
import subprocess
import time

import pytest
import yaml

from lab.keeld import Keeld
from lab.kubernetes import KEELD, ControlPlane
from lab.lab import CACHE, REGISTRY
from lab.nginx import Nginx, build
from lab.ports import free_port
from lab.process import run
from lab.registry import Registry
from lab.wait import wait_for

ROOT = pathlib.Path(__file__).resolve().parents[2]
LEASES = itertools.count(1)
ACCOUNT = "somebody"  # has whatever rights the test at hand gives


def objects():
    return [item for item in yaml.safe_load_all((ROOT / "conf/kubernetes/rbac.yaml").read_text()) if item]


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    """An API server with keeld's rights, that accepts client certificates, an account without rights, and a cache."""
    folder = tmp_path_factory.mktemp("plane")
    authority(folder)
    extra = [f"--client-ca-file={folder}/ca.crt"]
    with contextlib.ExitStack() as stack:
        options = {"controllers": False, "audit": True, "extra": extra, "users": {ACCOUNT: []}}
        plane = stack.enter_context(ControlPlane(folder / "cp", **options))
        registry = stack.enter_context(Registry(folder / "registry"))
        plane.cache = stack.enter_context(Nginx(folder / "nginx", {REGISTRY: registry.port}))
        plane.kube = plane.api.client()
        plane.folder = folder
        for item in objects():
            plane.kube.create(item)
        yield plane


def authority(folder):
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=people",
        "-keyout", folder / "ca.key", "-out", folder / "ca.crt")  # fmt: skip


@pytest.fixture
def keeld(plane, tmp_path):
    """Not started; its configuration is right."""
    own = Keeld(tmp_path / "keeld", settings(plane))
    yield own
    own.stop()


def settings(plane):
    """Each has a Lease of its own: none waits for another one's to run out."""
    return {
        "kubernetes": {"kubeconfig": str(plane.api.kubeconfig(KEELD)), "lease": {"name": f"keeld-{next(LEASES)}"}},
        "caches": [{"name": CACHE, "api": plane.cache.api_url, "lookup": plane.cache.lookup_url}],
        "registries": {REGISTRY: {"through": CACHE}},
    }


def attempt(keeld, *words, deadline=60):
    """(exit code, what it said) of a keeld that is expected to end by itself."""
    done = subprocess.run([*map(str, keeld.command()), *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=deadline, cwd=keeld.folder, env=keeld.environment())  # fmt: skip
    return done.returncode, done.stdout


def refuses(keeld, *texts):
    """Start and --check both end with 2 and say all of `texts`; nothing else than complaints comes."""
    for words in ([], ["--check"]):
        code, said = attempt(keeld, *words)
        assert code == 2, f"{words}: exit {code}\n{said}"
        for text in texts:
            assert str(text) in said, f"{words}: no {text!r} in\n{said}"
        assert "terminate called" not in said and "exception" not in said.lower()
    return said


def test_e2_a_right_configuration_passes_the_check_and_writes_nothing(keeld, plane):
    before = len(plane.api.requests())
    code, said = attempt(keeld, "--check")
    assert (code, said.count("\n")) == (0, 1) and "fine" in said
    asked = plane.api.requests()[before:]
    assert {entry["objectRef"].get("resource") for entry in asked} == {"selfsubjectaccessreviews"}
    assert not keeld.socket.exists()


# The file

BAD = {
    "a value of the wrong kind": ("pacing: {cluster: lots}", 1, "pacing.cluster", '"lots" is not a rate; expected N/s'),
    "no mapping": ("kubernetes: [a, b]", 1, "kubernetes", "is not a mapping; expected"),
    "an unknown key": ("mode: act\nledgr: {path: x}", 2, "ledgr", 'unknown key; did you mean "ledger"?'),
    "an unknown key inside": ("mode: act\ncaches:\n  - nam: a", 3, "caches[0].nam", 'did you mean "name"?'),
    "a key twice": ("mode: act\nmode: act", 2, "mode", "is written twice"),
    "an unknown word": ("mode: atc", 1, "mode", '"atc" is not known; expected one of observe, act'),
    "no policy": ("defaults: {policy: Force}", 1, "defaults.policy", '"Force" is not a policy'),
    "a key of a later version": ("mode: act\nhooks: []", 2, "hooks", "not supported by this version; take it out"),
    "an unknown cache": ("registries: {a.example: {through: nowhere}}", 1, "registries.a.example.through", "cache"),
    "a password": ("registries: {a.example: {direct: 'https://me:pass@a.example'}}", 1, "direct", "read from files only"),
    "another address": ("listen: [{at: '0.0.0.0:9095'}]", 1, "listen[0].at", "is not a loopback address"),
    "an address of the network": ("listen: [{at: '192.0.2.1:80'}]", 1, "listen[0].at", "expected unix:/PATH, 127.0.0.1:PORT"),
    "a port that is none": ("listen: [{at: '127.0.0.1:http'}]", 1, "listen[0].at", "has no port from 0 to 65535"),
}  # fmt: skip


@pytest.mark.parametrize("text, line, key, said", BAD.values(), ids=BAD)
def test_e2_a_bad_value_is_named_with_its_line(keeld, text, line, key, said):
    keeld.path.write_text(text + "\n")
    refuses(keeld, f"keeld: {keeld.path}:{line}: ", key, said)
    assert not keeld.ledger.exists()


def test_e2_no_yaml(keeld):
    keeld.path.write_text("mode: act\nlisten: [\n  {at\n")
    assert f"{keeld.path}:" in refuses(keeld, "is not YAML")
    keeld.path.unlink()
    refuses(keeld, f"{keeld.path}: cannot be read", "No such file", "--config")


def test_e2_all_that_is_wrong_is_said_at_once(keeld):
    keeld.path.write_text("mode: atc\npacing: {cluster: 0/h}\ntimeZone: Mars/North\nwhat: now\nkubernetes: {}\n")
    said = refuses(keeld, "mode", "pacing.cluster", "timeZone", "what")
    assert len(said.splitlines()) == 4 and all(line.startswith("keeld: ") for line in said.splitlines())


def test_e2_the_secret_file(keeld):
    secret = keeld.secret
    secret.chmod(0o644)
    refuses(keeld, "events.secret", secret, "others may read", "chmod o-rw")
    secret.chmod(0o600)
    right = secret.read_text()
    secret.write_text("hunter2\n")
    assert "hunter2" not in refuses(keeld, "events.secret", "line 1", "whsec_")
    secret.write_text("whsec_c2hvcnQ=\n")
    refuses(keeld, "events.secret", "5 bytes", "24 to 64")
    secret.write_text("\n")
    refuses(keeld, "events.secret", "holds no secret")
    secret.unlink()
    refuses(keeld, "events.secret", secret, "No such file")
    secret.write_text(right)
    secret.chmod(0o600)
    assert attempt(keeld, "--check")[0] == 0
    keeld.write({"events": None})
    refuses(keeld, "events.secret", "is missing", "keel_companion")


# The cluster

def test_e2_the_kubeconfig(keeld, tmp_path):
    keeld.write({"kubernetes": {"kubeconfig": str(tmp_path / "absent")}})
    refuses(keeld, "kubernetes.kubeconfig", tmp_path / "absent", "No such file")
    broken = tmp_path / "broken"
    keeld.write({"kubernetes": {"kubeconfig": str(broken)}})
    for text, *said in (
        ("clusters: [\n", "is no YAML"),
        ("current-context: none\ncontexts: []\n", "current-context", "none"),
        ("kind: Config\n", "current-context", "is missing"),
    ):
        broken.write_text(text)
        refuses(keeld, broken, *said)
    keeld.write({"kubernetes": {"kubeconfig": None}})
    refuses(keeld, "KUBERNETES_SERVICE_HOST", "kubernetes.kubeconfig")


def kubeconfig_with(plane, path, cluster=None, user=None):
    config = yaml.safe_load(plane.api.kubeconfig(KEELD).read_text())
    config["clusters"][0]["cluster"].update(cluster or {})
    if user is not None:
        config["users"][0]["user"] = user
    path.write_text(yaml.safe_dump(config))
    path.chmod(0o600)
    return path


def test_e2_an_api_server_that_cannot_be_used(keeld, plane, tmp_path):
    port = free_port()
    away = kubeconfig_with(plane, tmp_path / "away", {"server": f"https://127.0.0.1:{port}"})
    keeld.write({"kubernetes": {"kubeconfig": str(away)}})
    refuses(keeld, "the API server cannot be used", f"127.0.0.1:{port}")
    stranger = kubeconfig_with(plane, tmp_path / "stranger", {"certificate-authority": str(plane.folder / "ca.crt")})
    keeld.write({"kubernetes": {"kubeconfig": str(stranger)}})
    refuses(keeld, "the API server cannot be used", "certificate")
    nobody = kubeconfig_with(plane, tmp_path / "nobody", user={"token": "wrong"})
    keeld.write({"kubernetes": {"kubeconfig": str(nobody)}})
    refuses(keeld, "the API server cannot be used", "401")


@contextlib.contextmanager
def rights(plane, without):
    """The account ACCOUNT with keeld's rights but one: (resource, verb)."""
    made = []
    for item in copy.deepcopy(objects()):
        if item["kind"] in ("Namespace", "ServiceAccount"):
            continue
        item["metadata"]["name"] = "somebody"
        if "subjects" in item:
            item["subjects"] = [{"kind": "User", "name": ACCOUNT, "apiGroup": "rbac.authorization.k8s.io"}]
            item["roleRef"]["name"] = "somebody"
        for rule in list(item.get("rules", [])):
            if without and without[0] in rule["resources"] and without[1] in rule["verbs"]:
                rest = [name for name in rule["resources"] if name != without[0]]
                verbs = [verb for verb in rule["verbs"] if verb != without[1]]
                item["rules"].remove(rule)
                item["rules"] += [{**rule, "resources": rest}] if rest else []
                item["rules"] += [{**rule, "resources": [without[0]], "verbs": verbs}] if verbs else []
        made.append(plane.kube.create(item))
    try:
        yield
    finally:
        for item in made:
            meta = item["metadata"]
            plane.kube.delete(item["kind"].lower() + "s", meta.get("namespace"), meta["name"])


NEEDS = [
    *[(f"{kind}.apps", verb) for kind in ("deployments", "statefulsets", "daemonsets") for verb in ("list", "watch", "patch")],
    ("cronjobs.batch", "list"),
    ("cronjobs.batch", "watch"),
    ("cronjobs.batch", "patch"),
    ("pods", "create"),
    ("persistentvolumeclaims", "get"),
    ("poddisruptionbudgets.policy", "list"),
    ("namespaces", "list"),
    ("namespaces", "watch"),
    ("pods", "list"),
    ("replicasets.apps", "list"),
    ("controllerrevisions.apps", "list"),
    ("leases.coordination.k8s.io", "get"),
    ("leases.coordination.k8s.io", "create"),
    ("leases.coordination.k8s.io", "update"),
]


def check_rights(keeld, count):
    """What --check says, once the API server's authorizer has heard of the change: so many complaints."""

    def said():
        code, text = attempt(keeld, "--check")
        return text if code == 2 and text.count("may not") == count else None

    return wait_for(f"--check complains {count} times", said, 30)


@pytest.mark.parametrize("resource, verb", NEEDS, ids=[f"{verb} {resource}" for resource, verb in NEEDS])
def test_e2_a_missing_right_is_named(keeld, plane, resource, verb):
    keeld.write({"kubernetes": {"kubeconfig": str(plane.api.kubeconfig(ACCOUNT))}})
    with rights(plane, (resource.split(".")[0], verb)):
        said = check_rights(keeld, 1)
        assert f"may not {verb} {resource}" in said and "grant it" in said and "rbac.yaml" in said, said
        if verb in ("patch", "update", "create") or "leases" in resource:  # observing needs no right to write
            keeld.write({"mode": "observe"})
            assert attempt(keeld, "--check")[0] == 0


def test_e2_without_any_right_every_one_is_named_at_once(keeld, plane):
    keeld.write({"kubernetes": {"kubeconfig": str(plane.api.kubeconfig(ACCOUNT))}})
    said = refuses(keeld, "may not patch deployments.apps")
    for resource, verb in NEEDS:
        assert f"may not {verb} {resource}" in said


# The caches

def test_e2_a_cache_that_does_not_answer(keeld):
    """Only --check minds: a start must not depend on it."""
    port = free_port()
    keeld.config["caches"][0]["api"] = f"http://127.0.0.1:{port}/keel"
    keeld.write()
    code, said = attempt(keeld, "--check")
    assert code == 2 and CACHE in said and f"127.0.0.1:{port}" in said, said
    keeld.start().wait_ready()

    def told():
        return [one for one in keeld.get("/v1/status")["problems"] if one["code"] == "cache-unreachable"]

    assert f"127.0.0.1:{port}" in wait_for("the problem", told)[0]["text"]


def test_e2_a_cache_whose_api_is_elsewhere(keeld, plane):
    keeld.config["caches"][0]["api"] = plane.cache.lookup_url + "/keel"
    keeld.write()
    code, said = attempt(keeld, "--check")
    assert code == 2 and CACHE in said and "must name the location of keel_api" in said, said


# What is in use

def test_e2_the_socket_is_in_use(keeld, plane, tmp_path):
    keeld.start().wait_ready()
    second = Keeld(tmp_path / "second", settings(plane))
    second.write({"listen": [{"at": f"unix:{keeld.socket}"}]})
    code, said = attempt(second)
    assert code == 2 and f"unix:{keeld.socket}: another process answers there; stop it" in said, said
    second.write({"listen": [{"at": f"127.0.0.1:{keeld.events_port}"}]})
    code, said = attempt(second)
    assert code == 2 and f"127.0.0.1:{keeld.events_port}" in said and "in use" in said.lower(), said
    assert keeld.request("GET", "/readyz")[0] == 200  # the first one is as it was


def test_e2_a_socket_that_was_left_behind_is_no_obstacle(keeld):
    keeld.start().wait_ready()
    keeld.kill()
    assert keeld.socket.exists()
    keeld.start().wait_ready()


def test_e2_something_else_in_the_place_of_the_socket_is_left_alone(keeld):
    keeld.socket.write_text("a file of somebody's")
    code, said = attempt(keeld)
    assert code == 2 and str(keeld.socket) in said, said
    assert keeld.socket.read_text() == "a file of somebody's"


def test_e2_the_folder_of_the_socket_is_missing(keeld):
    keeld.write({"listen": [{"at": f"unix:{keeld.folder}/absent/keeld.sock"}]})
    code, said = attempt(keeld)
    assert code == 2 and f"{keeld.folder}/absent must exist" in said, said


def test_e2_the_ledger_is_used_by_another_keeld(keeld, plane, tmp_path):
    keeld.start().wait_ready()
    second = Keeld(tmp_path / "second", {**settings(plane), "ledger": {"path": str(keeld.ledger)}})
    code, said = attempt(second)
    assert code == 2 and str(keeld.ledger) in said and "used by another keeld" in said and str(keeld.pid) in said, said
    assert attempt(keeld, "--check")[0] == 0  # who checks beside a running keeld is not in its way
    assert keeld.request("GET", "/readyz")[0] == 200


def test_e2_a_ledger_that_cannot_be_one(keeld):
    keeld.ledger.write_text("this is not a database, it is a long letter to a friend. " * 20)
    refuses(keeld, keeld.ledger)
    assert keeld.ledger.read_text().startswith("this is not")  # somebody else's file stays as it is
    keeld.ledger.unlink()
    keeld.write({"ledger": {"path": str(keeld.folder / "absent/ledger.db")}})
    refuses(keeld, keeld.folder / "absent")


# Its end, and its configuration read again

def test_sigterm_ends_it_within_ten_seconds(keeld):
    keeld.start().wait_ready()
    wait_for("leader", lambda: keeld.get("/v1/status")["leader"]["held"])
    with socket.socket(socket.AF_UNIX) as open_connection:  # somebody who never finishes asking
        open_connection.connect(str(keeld.socket))
        open_connection.sendall(b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n")
        began = time.monotonic()
        keeld.process.send_signal(signal.SIGTERM)
        assert keeld.process.wait(30) == 0
        assert time.monotonic() - began < 10
    assert not keeld.socket.exists()


def test_sigterm_ends_it_without_an_api_server(plane, keeld):
    """What it waits for does not keep it: everything that it asks hangs."""
    keeld.start().wait_ready()
    plane.api.process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        keeld.process.send_signal(signal.SIGTERM)
        assert keeld.process.wait(30) == 0
        assert time.monotonic() - began < 10
    finally:
        plane.api.process.send_signal(signal.SIGCONT)


def test_sighup_with_a_bad_file_keeps_the_old_configuration(keeld, plane):
    plane.kube.namespace("reload", labels={"team": "a", "keel.sh/enrolled": "true"})
    template = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "x", "image": "registry.example/x:1"}]}}
    plane.kube.create({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": "reload", "name": "x"},
        "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": template},
    })  # fmt: skip
    keeld.start().wait_ready()
    why = "/v1/workloads/Deployment/reload/x"
    wait_for("enrolled", lambda: keeld.request("GET", why)[0] == 200 and keeld.get(why)["enrolled_by"])
    right = keeld.path.read_text()
    for bad in ("mode: [\n", right + "\nnonsense: 1\n", right.replace(str(keeld.secret), "/absent/secret")):
        lines = keeld.log.read_text().count("the old configuration stays in force")
        keeld.path.write_text(bad)
        keeld.process.send_signal(signal.SIGHUP)
        wait_for("refused", lambda: keeld.log.read_text().count("the old configuration stays in force") == lines + 1)
        assert keeld.get(why)["enrolled_by"] and keeld.running()
    keeld.path.write_text(right)
    keeld.write({"enrolment": {"label": "team=b"}})
    keeld.process.send_signal(signal.SIGHUP)
    wait_for("taken", lambda: not keeld.get(why)["enrolled_by"])
    keeld.write({"mode": "observe"})
    keeld.process.send_signal(signal.SIGHUP)
    wait_for("observing", lambda: keeld.get("/v1/status")["mode"] == "observe")


# Ways into a cluster

def lists(plane, user, resource="deployments"):
    return [entry for entry in plane.api.requests(user=user, verb="list", resource=resource)
            if entry["responseStatus"]["code"] == 200]  # fmt: skip


def certificate(plane, folder, name, days=1):
    run("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
        "-keyout", folder / "client.key", "-out", folder / "client.csr")  # fmt: skip
    run("openssl", "x509", "-req", "-in", folder / "client.csr", "-CA", plane.folder / "ca.crt",
        "-CAkey", plane.folder / "ca.key", "-CAcreateserial", "-days", str(days), "-out", folder / "client.crt")  # fmt: skip


def comes_in(keeld, plane, path, user=KEELD):
    """With that kubeconfig keeld gets ready and is who it should be."""
    before = len(lists(plane, user))
    keeld.write({"kubernetes": {"kubeconfig": str(path)}})
    keeld.start().wait_ready()
    assert len(lists(plane, user)) == before + 1
    wait_for("leader", lambda: keeld.get("/v1/status")["leader"]["held"])


def test_kubeconfig_with_a_client_certificate(keeld, plane, tmp_path):
    certificate(plane, tmp_path, KEELD)
    user = {"client-certificate": "client.crt", "client-key": "client.key"}  # relative to the kubeconfig
    comes_in(keeld, plane, kubeconfig_with(plane, tmp_path / "kubeconfig", user=user))


def bound_token(plane, name):
    """A token of keeld's service account that ends when the Secret `name` is deleted."""
    secrets = "/api/v1/namespaces/keel/secrets"
    secret = plane.kube.call("POST", secrets, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}})
    bound = {"apiVersion": "v1", "kind": "Secret", "name": name, "uid": secret["metadata"]["uid"]}
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"boundObjectRef": bound}}
    answer = plane.kube.call("POST", "/api/v1/namespaces/keel/serviceaccounts/keeld/token", request)
    return answer["status"]["token"]


def credentials(plane):
    """The service account tokens that keeld's requests were let in with, in their order."""
    found = []
    for entry in plane.api.requests(user=KEELD):
        for name in entry["user"].get("extra", {}).get("authentication.kubernetes.io/credential-id", []):
            if name.startswith("JTI=") and name not in found:
                found.append(name)
    return found


def test_kubeconfig_with_a_token_file_that_is_rotated(keeld, plane, tmp_path):
    """The old token ends while keeld runs: it reads the file again and goes on as the leader."""
    token = tmp_path / "token"
    token.write_text(bound_token(plane, "first") + "\n")
    comes_in(keeld, plane, kubeconfig_with(plane, tmp_path / "kubeconfig", user={"tokenFile": "token"}))
    assert len(credentials(plane)) == 1
    token.write_text(bound_token(plane, "second") + "\n")
    plane.kube.call("DELETE", "/api/v1/namespaces/keel/secrets/first")
    wait_for("requests with the new token", lambda: len(credentials(plane)) == 2, 60, interval=0.1)
    status = keeld.get("/v1/status")
    assert status["leader"]["held"]
    assert not [one for one in status["problems"] if one["code"] in ("cluster-unreachable", "not-leader")]


def plugin(folder, body):
    path = folder / "plugin"
    path.write_text("#!/bin/sh\n" + body)
    path.chmod(0o755)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "./plugin", "interactiveMode": "Never",
                     "installHint": "get the plugin from the people of the cluster"}}  # fmt: skip


def credential(token, expires=""):
    until = f', "expirationTimestamp": "{expires}"' if expires else ""
    return (
        "cat <<END\n"
        '{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",'
        f' "status": {{"token": "{token}"{until}}}}}\nEND\n'
    )


def test_kubeconfig_with_a_plugin(keeld, plane, tmp_path):
    user = plugin(tmp_path, "echo run >> runs\n" + credential(plane.api.tokens[KEELD]))
    comes_in(keeld, plane, kubeconfig_with(plane, tmp_path / "kubeconfig", user=user))
    runs = [path for path in (tmp_path / "runs", keeld.folder / "runs") if path.exists()]
    assert runs and runs[0].read_text() == "run\n"  # one credential serves all requests


def test_kubeconfig_with_a_plugin_whose_credential_ends(keeld, plane, tmp_path):
    """It is asked again for each request that finds the old one expired."""
    user = plugin(tmp_path, f"echo run >> {tmp_path}/runs\n" + credential(plane.api.tokens[KEELD], "2020-01-01T00:00:00Z"))
    comes_in(keeld, plane, kubeconfig_with(plane, tmp_path / "kubeconfig", user=user))
    assert (tmp_path / "runs").read_text().count("run") > 5


def test_e2_a_plugin_that_fails(keeld, plane, tmp_path):
    user = plugin(tmp_path, "echo the ticket has expired >&2\nexit 3\n")
    keeld.write({"kubernetes": {"kubeconfig": str(kubeconfig_with(plane, tmp_path / "kubeconfig", user=user))}})
    refuses(keeld, "plugin", "the ticket has expired")
    user["exec"]["command"] = "./absent"
    kubeconfig_with(plane, tmp_path / "kubeconfig", user=user)
    refuses(keeld, "absent", "get the plugin from the people of the cluster")
    user = plugin(tmp_path, "echo hello\n")
    kubeconfig_with(plane, tmp_path / "kubeconfig", user=user)
    refuses(keeld, "plugin")


def test_version_and_wrong_usage(keeld):
    code, said = attempt(keeld, "--version")
    assert code == 0 and said.startswith("keeld ")
    code, said = attempt(keeld, "--chek")
    assert code == 2 and "--chek" in said
    assert (build() / "keeld").exists()
