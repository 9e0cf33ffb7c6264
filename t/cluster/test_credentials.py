"""Whose credentials keeld asks registries with: tokens and Basic of a real docker-registry, pull secrets of a real API
server, a config.json and a helper program. The token server's log is the witness of what was asked.
"""

import base64
import contextlib
import json
import pathlib
import subprocess
import types

import pytest
import yaml

from lab.keeld import Keeld
from lab.kubernetes import KEELD, ControlPlane
from lab.nginx import build
from lab.registry import OCI_CONFIG, OCI_MANIFEST, Registry
from lab.tokens import BASIC_USER, BASIC_WORD, GuardedRegistry, TokenServer, htpasswd
from lab.wait import wait_for
from lab.workloads import deployment
from scene import ENROLLED, metric

ROOT = pathlib.Path(__file__).resolve().parents[2]
ACCOUNT = "somebody"  # has the shipped rights, and not the optional ones
CACHE_MARGIN = 10  # seconds by which a token is replaced before its end
REPOSITORIES = ["by-template", "by-account", "by-annotation", "by-old-format", "shared", "refused", "nobody", "limited",
                "by-config", "by-helper", "by-store", "public", "stranger"]  # fmt: skip
WORDS = {name: f"word-of-{name}-81f3" for name in
         ["tina", "saul", "anna", "otto", "carl", "hilda", "wrong", "stale", "lim"]}  # fmt: skip
USERS = {
    "tina": (WORDS["tina"], ["team/by-template", "team/shared"]),
    "saul": (WORDS["saul"], ["team/by-account"]),
    "anna": (WORDS["anna"], ["team/by-annotation"]),
    "otto": (WORDS["otto"], ["team/by-old-format"]),
    "carl": (WORDS["carl"], ["team/by-config"]),
    "hilda": (WORDS["hilda"], ["team/by-store"]),
    "robot": ("", ["team/by-helper"]),
    "lim": (WORDS["lim"], ["team/limited"]),
}
IDENTITY = "identity-of-robot-5c2e"
CANARY = "canary-44a1"  # of keeld's environment, which is nobody else's business
# Fails as such programs do, or answers with what its name says.
HELPER = """#!/bin/sh
read -r registry
echo "$registry $(env | sort | tr '\\n' ' ')" >> "$HOME/helper.log"
case "$(basename "$0")" in
  *-robot) echo '{"ServerURL": "x", "Username": "<token>", "Secret": "IDENTITY"}' ;;
  *-store) echo '{"ServerURL": "x", "Username": "hilda", "Secret": "HILDA"}' ;;
  *) echo "credentials not found in native keychain"; exit 1 ;;
esac
"""


def optional_rights():
    """What the shipped manifest holds as a comment, as somebody uncomments it."""
    text = (ROOT / "conf/kubernetes/rbac.yaml").read_text()
    lines = text[text.index("# apiVersion:"):].splitlines()
    return list(yaml.safe_load_all("\n".join(line.removeprefix("# ").removeprefix("#") for line in lines)))


def docker_config(registry, name, word):
    auth = base64.b64encode(f"{name}:{word}".encode()).decode()
    return {"auths": {registry: {"auth": auth}}}


def secret(namespace, name, content, kind="kubernetes.io/dockerconfigjson"):
    key = {"kubernetes.io/dockercfg": ".dockercfg"}.get(kind, ".dockerconfigjson")
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": namespace, "name": name}, "type": kind,
            "data": {key: base64.b64encode(data).decode()}}  # fmt: skip


def service_account(namespace, name, *secrets):
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": namespace, "name": name},
            "imagePullSecrets": [{"name": one} for one in secrets]}  # fmt: skip


def app(namespace, name, image, *secrets, account=None, **options):
    item = deployment(namespace, name, image, **options)
    spec = item["spec"]["template"]["spec"]
    spec["imagePullSecrets"] = [{"name": one} for one in secrets]
    if account:
        spec["serviceAccountName"] = account
    return item


class KeeldWithHelpers(Keeld):
    """Has a folder of programs of its own in PATH, and something in its environment that nobody must get."""

    def environment(self):
        own = super().environment()
        return own | {"PATH": f"{self.folder}/bin:{own['PATH']}", "HOME": str(self.folder), "KEELD_CANARY": CANARY}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("credentials")
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        plane = ControlPlane(folder / "cp", controllers=False, audit=True, users={ACCOUNT: []})
        enter(plane)
        content = enter(Registry(folder / "content", "content"))
        config = content.put_blob("team/seed", b'{"architecture":"amd64","os":"linux"}')
        manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": [],
                    "config": {"mediaType": OCI_CONFIG, "digest": config, "size": 37}}  # fmt: skip
        for name in REPOSITORIES:
            content.put_blob(f"team/{name}", b'{"architecture":"amd64","os":"linux"}')
            for tag in ("1", "2", "3"):
                content.put_manifest(f"team/{name}", tag, manifest)
        tokens = enter(TokenServer(folder, USERS, refresh={IDENTITY: "robot"}, public=["team/public"]))
        guarded = enter(GuardedRegistry(folder / "guarded", content, tokens.config()))
        basic = enter(GuardedRegistry(folder / "basic", content, htpasswd(folder / "htpasswd"), "basic"))
        kube = plane.api.client()
        for item in yaml.safe_load_all((ROOT / "conf/kubernetes/rbac.yaml").read_text()):
            if item:
                kube.create(item)
        bound = [item for item in yaml.safe_load_all((ROOT / "conf/kubernetes/rbac.yaml").read_text()) if item]
        for item in bound:
            if "subjects" in item:
                item["metadata"]["name"] = "somebody"
                item["subjects"] = [{"kind": "User", "name": ACCOUNT, "apiGroup": "rbac.authorization.k8s.io"}]
                kube.create(item)
        kube.create(*optional_rights())

        keeld_folder = folder / "keeld"
        (keeld_folder / "bin").mkdir(parents=True)
        helper = HELPER.replace("IDENTITY", IDENTITY).replace("HILDA", WORDS["hilda"])
        for name in ("robot", "store", "broken"):
            program = keeld_folder / "bin" / f"docker-credential-{name}"
            program.write_text(helper)
            program.chmod(0o755)
        files = {"carl": docker_config("config.example", "carl", "not-yet"),
                 "store": {"credHelpers": {"store.example": "store"}},
                 "basic": docker_config("basic.example", BASIC_USER, BASIC_WORD)}  # fmt: skip
        for name, value in files.items():
            (folder / f"{name}.json").write_text(json.dumps(value))

        def registry(credentials, at=guarded):
            return {"direct": at.url, "credentials": credentials}

        keeld = KeeldWithHelpers(keeld_folder, {
            "mode": "observe",
            "kubernetes": {"kubeconfig": str(plane.api.kubeconfig(KEELD))},
            "registries": {
                "pull.example": registry("pullSecrets"),
                "anonymous.example": registry("none"),
                "config.example": registry({"config": str(folder / "carl.json")}),
                "store.example": registry({"config": str(folder / "store.json")}),
                "helper.example": registry({"helper": "robot"}),
                "broken.example": registry({"helper": "broken"}),
                "basic.example": registry({"config": str(folder / "basic.json")}, basic),
            },
            "defaults": {"pollSchedule": "@every 1s"},
            "caches": [],
        }, arguments=["--log-level", "debug"])  # fmt: skip
        fill(kube)
        enter(keeld)
        yield types.SimpleNamespace(
            folder=folder, plane=plane, kube=kube, tokens=tokens, keeld=keeld, guarded=guarded, api=plane.api
        )


def fill(kube):
    """Who runs what, with which secrets."""
    for name in ("one", "two", "failing"):
        kube.namespace(name, labels=ENROLLED)
    kube.namespace("outside")

    def config(name, word=None):
        return docker_config("pull.example", name, word or WORDS[name])

    old = docker_config("pull.example", "otto", WORDS["otto"])["auths"]
    kube.create(
        secret("one", "tina", config("tina")), secret("one", "saul", config("saul")),
        secret("one", "anna", config("anna")), secret("two", "otto", old, "kubernetes.io/dockercfg"),
        secret("two", "stale", config("tina", WORDS["stale"])), secret("two", "lim", config("lim")),
        secret("failing", "wrong", config("wrong")), secret("failing", "opaque", {"a": 1}, "Opaque"),
        secret("failing", "other", docker_config("quay.io", "tina", WORDS["tina"])),
        secret("failing", "nonsense", {"auths": {"pull.example": {"auth": "%%%" + WORDS["tina"]}}}),
        secret("outside", "regcred", config("tina")),
    )  # fmt: skip
    for namespace in ("one", "two", "failing", "outside"):
        brings = {"one": ["saul"], "failing": ["reserve"]}.get(namespace, [])
        kube.create(service_account(namespace, "default", *brings))
    image = "pull.example/team/{}:1".format
    annotated = {"annotations": {"keel.sh/imagePullSecret": "anna"}}
    kube.create(
        app("one", "template", image("by-template"), "tina"),
        app("one", "account", image("by-account")),
        app("one", "annotation", image("by-annotation"), **annotated),
        app("two", "old", image("by-old-format"), "otto"),
        app("one", "shared", image("shared"), "tina"),
        app("two", "shared", image("shared"), "stale"),
        app("failing", "refused", image("refused"), "wrong", "gone", "opaque", "nonsense", "other"),
        app("failing", "nobody", image("nobody")),
        app("one", "public", "anonymous.example/team/public:1"),
        app("one", "stranger", "anonymous.example/team/stranger:1"),
        app("one", "config", "config.example/team/by-config:1"),
        app("one", "store", "store.example/team/by-store:1"),
        app("one", "helper", "helper.example/team/by-helper:1"),
        app("one", "broken", "broken.example/team/by-helper:1"),
        app("one", "basic", "basic.example/team/by-template:1"),
        app("outside", "app", image("by-template").replace(":1", ":3"), "regcred"),
    )
    for tag in ("2", "3"):
        kube.create(app("one", f"template-{tag}", f"pull.example/team/by-template:{tag}", "tina"))


def tag_of(scene, tag):
    items = scene.keeld.get("/v1/tags?limit=1000")["items"]
    return next((item for item in items if item["tag"] == tag), None)


def wait_answered(scene, tag, deadline=30):
    def met():
        item = tag_of(scene, tag)
        return item if item and item["confirmed"] and not item["failure"] else None

    try:
        return wait_for(f"{tag} answered", met, deadline)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{json.dumps(tag_of(scene, tag), indent=1)}") from None


def wait_failure(scene, tag, *parts, deadline=30):
    def met():
        failure = (tag_of(scene, tag) or {}).get("failure") or ""
        return failure if all(part in failure for part in parts) else None

    try:
        return wait_for(f"{tag} fails", met, deadline)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{json.dumps(tag_of(scene, tag), indent=1)}") from None


@pytest.mark.parametrize("tag", [
    "pull.example/team/by-template:1", "pull.example/team/by-account:1", "pull.example/team/by-annotation:1",
    "pull.example/team/by-old-format:1", "pull.example/team/shared:1", "anonymous.example/team/public:1",
    "store.example/team/by-store:1", "helper.example/team/by-helper:1", "basic.example/team/by-template:1",
])  # fmt: skip
def test_every_source_of_credentials_reaches_its_private_repository(scene, tag):
    """Pull secrets of both formats, a ServiceAccount's, an annotation's, helpers, Basic; another's stale one does no harm."""
    assert wait_answered(scene, tag)["digest"].startswith("sha256:")


def test_a_config_json_is_read_again_when_it_changes(scene):
    tag = "config.example/team/by-config:1"
    wait_failure(scene, tag, f"{scene.folder}/carl.json: refused by {scene.tokens.realm} (401)")
    text = json.dumps(docker_config("config.example", "carl", WORDS["carl"]))
    (scene.folder / "carl.json").write_text(text)
    wait_answered(scene, tag)


def test_one_token_request_for_each_repository_and_lifetime(scene):
    """Three tags of one repository, looked at every second, for some seconds: the token server was asked once."""
    before = metric(scene, "keeld_lookups_total")
    for tag in ("1", "2", "3"):
        wait_answered(scene, f"pull.example/team/by-template:{tag}")
    wait_for("many look-ups", lambda: metric(scene, "keeld_lookups_total") > before + 40, 30)
    given = scene.tokens.given()
    assert ("tina", "repository:team/by-template:pull") in given
    for (account, scope), moments in given.items():
        gaps = [later - earlier for earlier, later in zip(moments, moments[1:])]
        assert all(gap >= scene.tokens.lifetime - CACHE_MARGIN for gap in gaps), (account, scope, gaps)
    refused = {}
    for asked in scene.tokens.log:
        if asked.status == 401:
            refused.setdefault((asked.account, asked.scope), []).append(asked.at)
    for key, moments in refused.items():
        gaps = [later - earlier for earlier, later in zip(moments, moments[1:])]
        # Nobody's and a refused one's are kept for a minute; two passwords of one account are two keys.
        assert all(gap >= 50 for gap in gaps) or key[0] in ("carl", "tina"), (key, gaps)


def test_d1_a_private_repository_without_a_credential_says_what_was_tried(scene):
    """Missing, of a wrong type, unreadable, for another registry, refused: each named with its reason, by every command."""
    tag = "pull.example/team/refused:1"
    expected = [
        "Secret failing/wrong: refused by", "Secret failing/gone: it does not exist",
        "Secret failing/opaque: its type is Opaque", "Secret failing/nonsense: its .dockerconfigjson cannot be read",
        "Secret failing/other: it has nothing for pull.example", "anonymous: refused by",
    ]  # fmt: skip
    failure = wait_failure(scene, tag, *expected)
    # As in Kubernetes, a ServiceAccount's secrets are for pods that name none.
    assert "reserve" not in failure
    wait_failure(scene, "pull.example/team/nobody:1", "Secret failing/reserve: it does not exist")
    code, out, _ = scene.keeld.ctl("why", "deploy/failing/refused")
    assert all(part in " ".join(out.split()) for part in expected), out
    _, out, _ = scene.keeld.ctl("tags")
    assert all(part in out for part in expected)
    code, out, _ = scene.keeld.ctl("audit", "watches")
    assert code == 1
    line = next(line for line in out.splitlines() if "failing/refused" in line)
    assert "denied" in line and all(part in line for part in expected)


def test_d1_every_watch_that_cannot_fire_is_listed_with_its_reason(scene):
    kube = scene.kube
    image = "pull.example/team/by-template:1"
    made = {
        "policy": (image, {"keel.sh/policy": "sometimes"}), "schedule": (image, {"keel.sh/pollSchedule": "whenever"}),
        "push": (image, {"keel.sh/trigger": "approval"}), "nowhere": ("unknown.example/team/app:1", {}),
        "absent": ("pull.example/team/by-template:none", {}),
    }  # fmt: skip
    for name, (reference, annotations) in made.items():
        kube.create(app("one", name, reference, "tina", annotations=annotations))
    expected = {
        "failing/refused": "denied", "failing/nobody": "no-credential", "one/stranger": "no-credential",
        "one/broken": "no-credential", "one/policy": "setting-invalid", "one/schedule": "setting-invalid",
        "one/push": "no-receiver", "one/nowhere": "no-path", "one/absent": "not-found",
    }  # fmt: skip

    def listed():
        items = scene.keeld.ctl_json("audit", "watches")["items"]
        return {item["workload"].removeprefix("Deployment/"): item for item in items}

    try:
        wait_for("all of them", lambda: {key: item["state"] for key, item in listed().items()} == expected, 30)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{json.dumps(listed(), indent=1)}") from None
    found = listed()
    assert all(item["sentence"] and item["next"] for item in found.values())
    assert "docker-credential-broken failed, exit code 1: credentials not found" in found["one/broken"]["sentence"]
    assert "keel.sh/policy" in found["one/policy"]["sentence"]
    assert "keel.sh/pollSchedule" in found["one/schedule"]["sentence"]
    assert not any(workload.startswith("outside/") for workload in found)
    text = scene.keeld.get("/metrics")
    for state in ("denied", "not-found", "no-path", "no-receiver"):
        assert f'keeld_watches{{state="{state}"}} 1' in text
    everything = scene.keeld.ctl_json("audit", "watches", "--all")["items"]
    assert {item["state"] for item in everything} >= {"fine", *expected.values()}
    for name in made:
        kube.delete("deployments", "one", name)
    wait_for("the fine ones only", lambda: set(listed()) == {"failing/refused", "failing/nobody", "one/stranger", "one/broken"}, 10)


def test_d8_a_token_server_that_is_busy_denies_nothing(scene):
    scene.tokens.answer = (429, {"Retry-After": "3"})
    try:
        scene.kube.create(app("two", "limited", "pull.example/team/limited:1", "lim"))
        failure = wait_failure(scene, "pull.example/team/limited:1", "429")
        assert "refused" not in failure
        items = scene.keeld.ctl_json("audit", "watches")["items"]
        assert [item["state"] for item in items if item["workload"] == "Deployment/two/limited"] == ["never-answered"]
    finally:
        scene.tokens.answer = None
    wait_answered(scene, "pull.example/team/limited:1")


def test_secrets_are_read_only_where_workloads_are_enrolled(scene):
    """And never listed or watched."""
    wait_answered(scene, "pull.example/team/by-template:1")
    read = [entry["objectRef"] | {"verb": entry["verb"]} for entry in scene.api.requests(KEELD)
            if entry.get("objectRef", {}).get("resource") in ("secrets", "serviceaccounts")]  # fmt: skip
    assert {item["verb"] for item in read} == {"get"}
    assert {item["namespace"] for item in read} == {"one", "two", "failing"}


def test_no_secret_is_written_or_told_anywhere(scene):
    """Not in the log at its most talkative, not in the ledger, not in any answer."""
    scene.keeld.stop()
    scene.keeld.start().wait_ready()
    wait_answered(scene, "basic.example/team/by-template:1")
    told = [scene.keeld.request("GET", path)[1] for path in
            ("/v1/status", "/v1/tags?limit=1000", "/v1/workloads?limit=1000", "/v1/ledger?limit=1000", "/metrics",
             "/v1/audit/watches?all=true&limit=1000", "/v1/workloads/Deployment/failing/refused")]  # fmt: skip
    texts = {"answers": json.dumps(told), "log": scene.keeld.log.read_text(errors="replace")}
    for path in scene.keeld.ledger.parent.glob("ledger.db*"):
        texts[path.name] = path.read_bytes().decode("latin-1")
    secrets = [*WORDS.values(), IDENTITY, BASIC_WORD]
    secrets += [base64.b64encode(f"{name}:{word}".encode()).decode() for name, word in WORDS.items()]
    for where, text in texts.items():
        assert text, where
        assert not [word for word in secrets if word in text], where
        assert "eyJ" not in text, f"a token in {where}"


def test_helpers_get_nothing_of_our_environment(scene):
    lines = (scene.keeld.folder / "helper.log").read_text().splitlines()
    assert {line.split()[0] for line in lines} == {"store.example", "helper.example", "broken.example"}
    assert all("PATH=" in line and CANARY not in line for line in lines)


def test_check_names_the_missing_permission(scene, tmp_path):
    """The rights that are shipped uncommented are not enough for pullSecrets, and --check says so."""
    config = dict(scene.keeld.config, kubernetes={"kubeconfig": str(scene.api.kubeconfig(ACCOUNT))},
                  ledger={"path": f"{tmp_path}/ledger.db"})  # fmt: skip
    path = tmp_path / "keeld.yaml"
    path.write_text(yaml.safe_dump(config))
    done = subprocess.run([build() / "keeld", "--check", "--config", path], env=scene.keeld.environment(),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)  # fmt: skip
    assert done.returncode == 2
    for resource in ("secrets", "serviceaccounts"):
        assert f"may not get {resource}; grant it" in done.stderr
