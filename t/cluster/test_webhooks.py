"""What registries, forges and CI post: a hint to look through the cache at once, and never more than that."""

import base64
import hashlib
import hmac
import http.client
import itertools
import json

import pytest

from lab.client import PATCH_TYPES
from lab.lab import REGISTRY, Lab
from lab.ports import free_port
from lab.wait import wait_for
from lab.workloads import deployment
from scene import mark, patches, wait_ended, wait_newest, wait_reason, wait_why

ANY = "sha256:" + "a" * 64  # a digest that nobody has seen: it is nothing to go by
KEY = "the-key-of-the-sender"
USER = "bob:the-password"

# How each sender posts one push, as its own documentation and sources have it: (headers, body, tag).
PUSHES = {
    "native": ({}, {"host": "ghcr.io", "name": "acme/native", "tag": "v2", "digest": ANY}, "ghcr.io/acme/native:v2"),
    "dockerhub": (
        {},
        {
            "push_data": {"pushed_at": 1790000000, "pusher": "bob", "tag": "v2"},
            "callback_url": "https://registry.hub.docker.com/u/acme/web/hook/x/",
            "repository": {"repo_name": "acme/hub", "name": "hub", "namespace": "acme", "status": "Active"},
        },
        "docker.io/acme/hub:v2",
    ),
    "quay": (
        {},
        {"name": "quay", "repository": "acme/quay", "docker_url": "quay.io/acme/quay", "updated_tags": ["v1", "v2"]},
        "quay.io/acme/quay:v2",
    ),
    "azure": (
        {"User-Agent": "AzureContainerRegistry/1.0"},
        {
            "id": "1",
            "action": "push",
            "target": {"size": 524, "digest": ANY, "repository": "azure", "tag": "v2"},
            "request": {"id": "2", "host": "acme.azurecr.io", "method": "PUT"},
        },
        "acme.azurecr.io/azure:v2",
    ),
    "github": (
        {"X-GitHub-Event": "package", "X-GitHub-Delivery": "1"},
        {
            "action": "published",
            "package": {
                "name": "GitHub",
                "namespace": "Acme",
                "package_type": "CONTAINER",
                "owner": {"login": "Acme"},
                "package_version": {
                    "version": ANY,
                    "package_url": "ghcr.io/acme/github:v2",
                    "container_metadata": {"tag": {"name": "v2", "digest": ANY}},
                },
            },
        },
        "ghcr.io/acme/github:v2",
    ),
    "harbor": (
        {},
        {
            "type": "PUSH_ARTIFACT",
            "occur_at": 1790000000,
            "operator": "ci",
            "event_data": {
                "resources": [{"digest": ANY, "tag": "v2", "resource_url": "harbor.example/acme/harbor:v2"}],
                "repository": {"name": "harbor", "namespace": "acme", "repo_full_name": "acme/harbor"},
            },
        },
        "harbor.example/acme/harbor:v2",
    ),
    "jfrog": (
        {},
        {
            "domain": "docker",
            "event_type": "pushed",
            "data": {"repo_key": "local", "path": "jfrog/v2/list.manifest.json", "image_name": "jfrog", "tag": "v2"},
            "jpd_origin": "https://acme.jfrog.io",
        },
        "acme.jfrog.io/local/jfrog:v2",
    ),
    "registry": (
        {"Content-Type": "application/vnd.docker.distribution.events.v1+json"},
        {
            "events": [
                {"action": "push", "target": {"repository": "acme/registry", "digest": ANY}, "request": {"host": "harbor.example"}},
                {
                    "id": "u",
                    "timestamp": "2026-11-22T08:13:49Z",
                    "action": "push",
                    "target": {"repository": "acme/registry", "digest": ANY, "tag": "v2"},
                    "request": {"host": "harbor.example", "method": "PUT"},
                },
            ]
        },
        "harbor.example/acme/registry:v2",
    ),
    "gitea": (
        {"X-Gitea-Event": "package"},
        {
            "action": "created",
            "package": {
                "type": "container",
                "name": "gitea",
                "version": "v2",
                "html_url": "https://git.example/acme/-/packages/container/gitea/v2",
                "owner": {"login": "Acme"},
            },
        },
        "git.example/acme/gitea:V2",  # it writes names in lower case
    ),
    "gitlab": (
        {},
        {"events": [{"action": "push", "target": {"repository": "acme/gitlab", "tag": "v2"}, "request": {"host": "git.example"}}]},
        "git.example/acme/gitlab:v2",
    ),
    "cloudevents": (
        {"ce-specversion": "1.0", "ce-type": "zotregistry.image.updated", "ce-source": "zotregistry.dev", "ce-id": "1"},
        {"name": "acme/zot", "reference": "v2", "digest": ANY, "manifest": "{}"},
        "harbor.example/acme/zot:v2",  # which registry it is does not say
    ),
}
# How each is configured here: (auth, headers of one who may post this body).
HMAC, BEARER, BASIC = "hmac", "bearer", "basic"
AUTH = {
    "github": (HMAC, lambda body: {"X-Hub-Signature-256": "sha256=" + signature(body)}),
    "gitea": (HMAC, lambda body: {"X-Gitea-Signature": signature(body)}),
    "jfrog": (HMAC, lambda body: {"X-JFrog-Event-Auth": signature(body)}),
    "harbor": (BEARER, lambda body: {"Authorization": KEY}),
    "gitlab": (BEARER, lambda body: {"X-Gitlab-Token": KEY}),
    "azure": (BASIC, lambda body: {"Authorization": "Basic " + base64.b64encode(USER.encode()).decode()}),
    "registry": (BEARER, lambda body: {"Authorization": "Bearer " + KEY}),
}


def signature(body, key=KEY):
    return hmac.new(key.encode(), body, hashlib.sha256).hexdigest()


class Scene(Lab):
    """Without pods: Deployments of no replicas follow one tag of each sender, which nobody looks at by himself for a day."""

    def __init__(self):
        self.port, self.moves = free_port(), itertools.count(1)
        registries = {tag.split("/")[0] for _, _, tag in PUSHES.values()}
        super().__init__(nodes=0, controllers=False, also=sorted(registries), before_keeld=self._prepare,
                         keeld={"defaults": {"pollSchedule": "@every 24h"}})  # fmt: skip

    def _prepare(self, _):
        secrets = {HMAC: KEY, BEARER: KEY, BASIC: USER}
        webhooks = {sender: {"auth": "none"} for sender in PUSHES}
        for sender, (auth, _) in AUTH.items():
            path = self.folder / f"{auth}.secret"
            path.write_text(secrets[auth] + "\n")
            path.chmod(0o600)
            webhooks[sender] = {"auth": auth, "secret": str(path)}
        listen = [*self.keeld.config["listen"], {"at": f"127.0.0.1:{self.port}", "serve": ["webhooks"]}]
        self.keeld_settings = {**self.keeld_settings, "webhooks": webhooks, "listen": listen}
        self.kube.namespace("hooks", labels={"keel.sh/enrolled": "true"})
        for sender, (_, _, tag) in PUSHES.items():
            self.move(tag)
            self.kube.create(deployment("hooks", sender, tag, replicas=0))

    def move(self, tag):
        """Another digest under the tag, upstream; nobody has asked for it yet."""
        repository, name = tag.split("/", 1)[1].rsplit(":", 1)
        return self.push(repository, name, f"{name}-{next(self.moves)}").digest

    def known(self, tag):
        """The digest that keeld knows of the tag."""
        items = {item["tag"]: item for item in self.keeld.get("/v1/tags?limit=1000")["items"]}
        return items.get(tag, {}).get("digest")

    def wait_known(self, tag, digest, deadline=15):
        wait_for(f"{tag} at {digest}", lambda: self.known(tag) == digest, deadline)

    def post(self, sender, body, headers=None, method="POST"):
        """(status, body, headers)"""
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            client.request(method, f"/v1/webhooks/{sender}", body, headers or {})
            answer = client.getresponse()
            return answer.status, answer.read(), answer.headers
        finally:
            client.close()

    def insist(self, sender, body, headers=None):
        """post(), again where earlier ones used up the rate of this second."""

        def answered():
            answer = self.post(sender, body, headers)
            return answer if answer[0] != 429 else None

        return wait_for(f"room for a webhook of {sender}", answered, 10)

    def send(self, sender, push=None):
        """Posts a push as who may."""
        headers, body, _ = PUSHES[sender]
        data = json.dumps(push or body).encode()
        own = AUTH[sender][1](data) if sender in AUTH else {}
        return self.insist(sender, data, {"Content-Type": "application/json", **headers, **own})

    def counted(self, sender):
        """{result: number}"""
        found = {}
        for line in self.keeld.get("/metrics").splitlines():
            if line.startswith("keeld_webhooks_total{") and f'sender="{sender}"' in line:
                found[line.split('result="')[1].split('"')[0]] = int(float(line.rsplit(" ", 1)[1]))
        return found


@pytest.fixture(scope="module")
def scene():
    with Scene() as running:
        for _, _, tag in PUSHES.values():
            wait_for(f"a first answer about {tag}", lambda: running.known(tag), 60)
        yield running


@pytest.mark.parametrize("sender", PUSHES)
def test_a_push_makes_keeld_look_at_that_tag(scene, sender):
    """200 without a body, as senders expect it; the registry is asked, and what it answers counts, not what was posted."""
    tag = PUSHES[sender][2]
    before = scene.known(tag)
    digest = scene.move(tag)
    assert digest != before
    assert scene.send(sender)[:2] == (200, b"")
    scene.wait_known(tag, digest)
    # The same delivery once more changes nothing.
    assert scene.send(sender)[:2] == (200, b"")
    assert scene.known(tag) == digest
    assert scene.counted(sender)["asked"] >= 1


@pytest.mark.parametrize("first", ["the webhook", "the registry"])
def test_d5_a_push_that_names_a_digest_confirms_that_the_tag_went_back(scene, first):
    """Only of a sender that shows who it is; whether the registry was asked before it or is asked because of it."""
    tag = f"harbor.example/acme/back-{first.split()[1]}:v2"
    repository = tag.split("/", 1)[1].rsplit(":", 1)[0]
    one = scene.move(tag)
    name = f"back-{first.split()[1]}"
    scene.kube.create(deployment("hooks", name, tag, replicas=0))
    scene.wait_known(tag, one, 30)
    two = scene.move(tag)
    host = tag.split("/")[0]
    push = {"host": host, "name": repository, "tag": "v2"}
    assert scene.send("native", push)[0] == 200
    scene.wait_known(tag, two)
    scene.upstream.put_manifest(repository, "v2", scene.upstream.manifest(repository, one).body)

    def pending():
        items = {item["tag"]: item for item in scene.keeld.get("/v1/tags?limit=1000")["items"]}
        return items[tag]["pending"]

    def event(digest):
        target = {"repository": repository, "tag": "v2", "digest": digest}
        return {"events": [{"action": "push", "target": target, "request": {"host": host}}]}

    if first == "the registry":
        word = {**push, "digest": one}
        wait_for("anybody's word moves nothing", lambda: scene.send("native", word)[0] == 200 and pending(), 15)
        assert scene.known(tag) == two
        assert scene.send("registry", event(ANY))[0] == 200
        assert (scene.known(tag), pending()) == (two, one)
    assert scene.send("registry", event(one))[0] == 200
    scene.wait_known(tag, one)
    assert pending() is None


def test_a_version_that_a_policy_may_take_makes_keeld_read_the_list(scene):
    scene.move("ghcr.io/acme/version:1.0.0")
    scene.kube.create(deployment("hooks", "version", "ghcr.io/acme/version:1.0.0", replicas=0,
                                 annotations={"keel.sh/policy": "minor"}))  # fmt: skip

    def newest():
        status, answer = scene.keeld.request("GET", "/v1/workloads/Deployment/hooks/version")
        return status == 200 and (answer["containers"][0]["newest"] or {}).get("name")

    wait_for("its own tag is known", newest, 30)
    scene.move("ghcr.io/acme/version:1.1.0")
    assert scene.send("native", {"host": "ghcr.io", "name": "acme/version", "tag": "1.1.0"})[0] == 200
    wait_for("the new version is known", lambda: str(newest()).endswith("1.1.0"), 15)


@pytest.mark.parametrize("sender", AUTH)
def test_who_may_not_post_is_refused_and_counted(scene, sender):
    headers, body, tag = PUSHES[sender]
    before = scene.known(tag)
    scene.move(tag)
    counted = scene.counted(sender)
    data = json.dumps(body).encode()
    auth, good = AUTH[sender]
    name, value = next(iter(good(data).items()))
    forged = [
        {},
        {name: ""},
        {name: value + "0"},
        {name: value[:-1]},
        {"X-Forwarded-User": "admin", "X-Forwarded-For": "127.0.0.1", "X-Remote-User": "root"},
    ]
    if auth == HMAC:
        forged += [good(data + b" "), {name: value.replace(signature(data), signature(data, "another key"))}]
    for attempt in forged:
        status, answer, _ = scene.post(sender, data, {**headers, **attempt})
        assert status == 401, attempt
        assert KEY not in answer.decode() and "the-password" not in answer.decode()
    after = scene.counted(sender)
    assert after["unauthorized"] - counted.get("unauthorized", 0) == len(forged)
    assert {**after, "unauthorized": 0} == {**counted, "unauthorized": 0}
    assert scene.known(tag) == before, "nothing was asked for it"


def test_what_is_malformed_or_too_large_is_refused_and_counted(scene):
    for body in (b"", b"{", b"[]", b'{"name": "a b", "tag": "1"}', b'{"name": "acme/web"}', b"\xff\xfe"):
        status, answer, _ = scene.insist("native", body)
        assert status == 400 and json.loads(answer)["error"]["code"] == "bad-webhook", body
    assert scene.counted("native")["malformed"] == 6
    assert scene.post("native", b" " * (128 * 1024 + 1))[0] == 413
    assert scene.counted("native")["too-large"] == 1
    assert scene.post("native", b"", method="GET")[0] == 405
    assert scene.post("nobody", b"{}")[0] == 404
    assert scene.keeld.request("POST", "/v1/webhooks/native", "{}")[0] == 405, "not served on that socket"


def test_what_nobody_runs_is_taken_and_asks_for_nothing(scene):
    counted = scene.counted("native")
    assert scene.send("native", {"host": "ghcr.io", "name": "acme/unknown", "tag": "1"})[:2] == (200, b"")
    assert scene.send("github", {"zen": "…"})[0] == 400, "a package event without a package"
    data = b'{"zen": "Keep it logically awesome."}'
    ping = {"X-GitHub-Event": "ping", **AUTH["github"][1](data)}
    assert scene.insist("github", data, ping)[:2] == (200, b"")
    assert scene.counted("native")["unknown"] == counted.get("unknown", 0) + 1
    assert scene.known("ghcr.io/acme/unknown:1") is None


# --- keel.sh/trigger: push ---


@pytest.fixture
def pushed(stage):
    """The shared stage, whose keeld takes webhooks of `native` as well; (stage, post)."""
    usual = stage.keeld.config
    listen = [{**usual["listen"][0], "serve": [*usual["listen"][0]["serve"], "webhooks"]}, *usual["listen"][1:]]
    stage.keeld.write({"webhooks": {"native": {"auth": "none"}}, "listen": listen})
    stage.keeld.restart()

    def post(repository, tag):
        body = json.dumps({"host": REGISTRY, "name": repository, "tag": tag})
        assert stage.keeld.request("POST", "/v1/webhooks/native", body)[0] == 200

    yield stage, post
    stage.keeld.config = usual
    stage.keeld.write()
    stage.keeld.restart()


def by_webhooks_alone(stage, namespace, policy="force"):
    path = stage.kube.path("deployments", namespace, "app")
    annotations = {"keel.sh/trigger": "push", "keel.sh/policy": policy}
    stage.kube.call("PATCH", path, {"metadata": {"annotations": annotations}}, content_type=PATCH_TYPES["merge"])


def test_d6_r8_a_webhook_alone_moves_what_has_the_trigger_push(pushed):
    """Neither time nor traffic does; what the tag answers then is released, also over a restart of keeld, and nothing later."""
    stage, post = pushed
    ns, repository, name = "push-digest", "push-digest/app", "Deployment/push-digest/app"
    stage.deploy(ns, "app", repository)
    by_webhooks_alone(stage, ns)
    since = mark(stage)
    one = stage.move(repository)
    stage.pull(repository)  # traffic tells keeld of it
    wait_newest(stage, name, one)
    assert "none has named" in json.dumps(wait_reason(stage, name, "awaiting-webhook"))
    assert stage.keeld.ctl("pause", "--reason", "test")[0] == 0
    try:
        two = stage.move(repository)
        post(repository, "latest")
        wait_newest(stage, name, two)
        wait_reason(stage, name, "digest-moved")
        stage.keeld.restart()
        wait_reason(stage, name, "digest-moved")
        assert not patches(stage, name, since)
    finally:
        assert stage.keeld.ctl("resume")[0] == 0
    wait_ended(stage, name, two)
    assert patches(stage, name, since) == [200]
    three = stage.move(repository)
    stage.pull(repository)
    wait_newest(stage, name, three)
    wait_reason(stage, name, "awaiting-webhook")
    assert patches(stage, name, since) == [200]


def test_v1_a_version_that_a_webhook_names_is_taken_by_what_has_the_trigger_push(pushed):
    stage, post = pushed
    ns, repository, name = "push-version", "push-version/app", "Deployment/push-version/app"
    stage.deploy(ns, "app", repository, tag="1.0.0")
    by_webhooks_alone(stage, ns, "minor")
    stage.move(repository, "1.1.0")
    since = mark(stage)
    stage.keeld.restart()
    wait_why(stage, name, "is judged", lambda answer: answer["reason"] in ("awaiting-webhook", "up-to-date"))
    assert not patches(stage, name, since)
    two = stage.move(repository, "1.1.0")
    post(repository, "1.1.0")
    wait_ended(stage, name, two)
    assert patches(stage, name, since) == [200]
