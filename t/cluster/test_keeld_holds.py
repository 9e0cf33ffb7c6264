"""Holds from keelctl to the answer that a node gets, through one keeld and two caches.

Real nginx, registries and keeld; no cluster but in the last part, which looks at what workloads are told.
"""

import contextlib
import hashlib
import http.client
import http.server
import itertools
import json
import pathlib
import shutil
import subprocess
import tempfile
import threading
import urllib.parse

import pytest

from lab.cut import PASS
from lab.images import Images
from lab.keeld import Keeld, UnixConnection, merged
from lab.lab import REGISTRY as LAB_REGISTRY
from lab.nginx import Nginx, build
from lab.registry import Registry
from lab.wait import wait_for
from lab.workloads import deployment
from scene import entries, fetch, reached, rollouts, settings, wait_ended, wait_newest, wait_reason, wait_rolled_out

REGISTRY = "registry.example"
CACHES = ("cache-a", "cache-b")
CAUGHT_UP = 30  # seconds after a cache is back
_count = itertools.count(1)


def write(cache, method, tag, body=None):
    """Somebody else at keel_api, whom its socket knows."""
    revision = cache.api("holds")[1]["revision"]
    connection = UnixConnection(cache.api_socket)
    with contextlib.closing(connection):
        connection.request(method, f"/keel/holds/{tag}", json.dumps(body) if body else None, {"If-Match": revision})
        answer = connection.getresponse()
        text = answer.read()
    assert answer.status == 200, text


def theirs(digest):
    """What they write."""
    return {"digest": digest, "reason": "theirs", "until": None, "verified": None, "force": True}


class Door(http.server.ThreadingHTTPServer):
    """Between keeld and one cache's keel_api: lets everything through but, on request, a write or its answer."""

    daemon_threads = True

    def __init__(self, port):
        self.target = port
        self.stop_at = None  # "before", "after": a write, on its way there or back
        self.reached = threading.Event()
        super().__init__(("127.0.0.1", 0), Passage)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/keel"


class Passage(http.server.BaseHTTPRequestHandler):
    def forward(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        stop = self.server.stop_at if self.command != "GET" else None
        if stop == "before":
            self.server.reached.set()
            return self.hang_up()
        connection = http.client.HTTPConnection("127.0.0.1", self.server.target, timeout=30)
        with contextlib.closing(connection):
            headers = {key: value for key, value in self.headers.items() if key.lower() not in ("host", "connection")}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
        if stop == "after":
            self.server.reached.set()
            return self.hang_up()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "text/plain"))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        return None

    def hang_up(self):
        self.close_connection = True

    do_GET = do_PUT = do_DELETE = forward

    def log_message(self, *_):
        pass


class Scene:
    """Two caches before one upstream registry, and a keeld that knows both."""

    def __init__(self, folder):
        folder.chmod(0o711)
        self.folder = folder
        self.images = Images(folder / "images")
        self.upstream = Registry(folder / "registry", "upstream")
        self.upstream.start().wait_ready()
        self.through = Registry(folder / "through", "through", proxy_of=self.upstream.url)
        self.through.start().wait_ready()
        self.seed = self.images.push(self.upstream, "team/seed", "1", "seed").digest
        self.keeld = Keeld(folder / "keeld", {"mode": "observe"})
        self.caches = {name: self.nginx(name).start() for name in CACHES}
        for cache in self.caches.values():
            cache.wait_ready()
        self.doors = {name: Door(cache.api_port) for name, cache in self.caches.items()}
        self.keeld.write({"caches": [self.configured(name) for name in CACHES], "registries": {REGISTRY: {"through": "cache-a"}}})
        self.keeld.start().wait_ready()

    def nginx(self, name):
        return Nginx(self.folder / name, {REGISTRY: self.through.port}, companion=self.keeld.events_url,
                     secret=self.keeld.secret, cache=name)  # fmt: skip

    def configured(self, name):
        cache = self.caches[name]
        return {"name": name, "api": self.doors[name].url, "secret": str(cache.api_secret), "lookup": cache.lookup_url}

    def stop(self):
        self.keeld.stop()
        for door in self.doors.values():
            door.shutdown()
        for server in (*self.caches.values(), self.through, self.upstream):
            server.stop()

    # What is pushed, and what is pulled

    def repository(self):
        """A repository of this test's own, with the seed's layers."""
        name = f"team/app-{next(_count)}"
        manifest = self.upstream.manifest("team/seed", self.seed)
        for blob in [manifest.json["config"], *manifest.json["layers"]]:
            self.upstream.put_blob(name, self.upstream.blob("team/seed", blob["digest"]))
        self.upstream.put_manifest(name, "seed", manifest.body)
        return name

    def push(self, repository, version):
        """An index of two platforms under latest; its digest."""
        images = [("linux", architecture, self.upstream.put_variant(repository, "seed", f"{version} {architecture}", ("linux", architecture)))
                  for architecture in ("amd64", "arm64")]  # fmt: skip
        return self.upstream.put_index(repository, "latest", images)

    def two(self):
        """A repository whose tag latest was at the first digest and is now at the second, as both caches have seen."""
        repository = self.repository()
        digests = []
        for version in ("one", "two"):
            digests.append(self.push(repository, version))
            for cache in CACHES:
                assert self.pull(cache, repository).digest == digests[-1]
            wait_for(f"keeld knows {digests[-1]}", lambda: self.newest(repository) == digests[-1])
        return repository, *digests

    def pull(self, cache, repository, reference="latest"):
        """As a kubelet asks."""
        return self.caches[cache].through(REGISTRY).manifest(repository, reference, headers={"User-Agent": "containerd/1.6.20"})

    def pulls(self, repository):
        return [self.pull(cache, repository).digest for cache in CACHES]

    # What keeld and the caches say

    def tag(self, repository):
        return f"{REGISTRY}/{repository}:latest"

    def newest(self, repository):
        items = self.keeld.get("/v1/tags?limit=1000")["items"]
        return next((item["digest"] for item in items if item["tag"] == self.tag(repository)), None)

    def holds(self, cache):
        """{tag: hold} of one cache."""
        status, body = self.caches[cache].api("holds")
        assert status == 200, body
        return {item["tag"]: item for item in body["holds"]}

    def state(self, repository):
        """{cache: state} of this keeld's hold, as keeld has it."""
        found = [item for item in self.keeld.get("/v1/holds?limit=1000")["items"] if item["own"] and item["tag"] == self.tag(repository)]
        return {cache["cache"]: cache["state"] for cache in found[0]["caches"]} if found else {}

    def problems(self, code):
        return [one for one in self.keeld.get("/v1/status")["problems"] if one["code"] == code]

    def act(self, *words, code=0):
        """keelctl; {cache: code} of its results. Checks its exit code."""
        done, out, err = self.keeld.ctl("-o", "json", *words, deadline=120)
        assert done == code, (done, out, err)
        results = json.loads(out)["results"]
        return {item["cache"]: item["code"] for item in results}

    def hold(self, repository, digest, *words, code=0):
        return self.act("hold", self.tag(repository), "--at", digest, "--reason", "test", *words, code=code)

    def write(self, cache, method, tag, body=None):
        write(self.caches[cache], method, tag, body)


@pytest.fixture(scope="module")
def shared():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ngx-keel-"))  # nginx's workers pass through
    scene = Scene(folder)
    yield scene
    scene.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def scene(shared):
    for door in shared.doors.values():
        door.stop_at = None
        door.reached.clear()
    for server in (*shared.caches.values(), shared.keeld):
        if not server.running():
            server.start().wait_ready()
    return shared


def test_a_hold_is_what_nodes_pull_until_it_is_released(scene):
    repository, first, second = scene.two()
    assert scene.hold(repository, first) == {"cache-a": "held", "cache-b": "held"}
    assert scene.pulls(repository) == [first, first]
    for cache in CACHES:
        hold = scene.holds(cache)[scene.tag(repository)]
        assert (hold["digest"], hold["author"], hold["owner"], hold["reason"]) == (first, "keeld", "keeld", "test")
        assert hold["verified"] and hold["until"] is None
    # keeld itself looks past it.
    assert scene.newest(repository) == second
    held = next(item for item in scene.keeld.get("/v1/tags?limit=1000")["items"] if item["tag"] == scene.tag(repository))["hold"]
    assert held["digest"] == first and held["everywhere"] and held["reason"] == "test"
    assert scene.act("release", scene.tag(repository)) == {"cache-a": "released", "cache-b": "released"}
    assert scene.pulls(repository) == [second, second]
    told = [(item["kind"], item["code"]) for item in scene.keeld.get("/v1/ledger?limit=1000")["items"] if item["tag"] == scene.tag(repository)]
    assert {("held", "set"), ("held", "placed"), ("released", "lifted")} <= set(told)


def test_without_a_digest_the_newest_is_held(scene):
    repository, _, second = scene.two()
    done, out, err = scene.keeld.ctl("hold", scene.tag(repository), "--reason", "stay here", "--for", "72h")
    assert done == 0, (out, err)
    third = scene.push(repository, "three")
    assert scene.pulls(repository) == [second, second]
    done, out, _ = scene.keeld.ctl("holds")
    assert done == 0 and "stay here" in out
    scene.act("release", scene.tag(repository))
    assert scene.pulls(repository) == [third, third]


def test_a_cache_that_is_away_is_caught_up_when_it_is_back(scene):
    repository, first, second = scene.two()
    away = scene.caches["cache-b"]
    away.stop()
    assert scene.hold(repository, first, code=1) == {"cache-a": "held", "cache-b": "away"}
    assert [one for one in scene.problems("hold-not-set") if scene.tag(repository) in one["text"]]
    away.start().wait_ready()
    wait_for("cache-b holds it", lambda: scene.tag(repository) in scene.holds("cache-b"), CAUGHT_UP)
    wait_for("no problem left", lambda: not scene.problems("hold-not-set"), CAUGHT_UP)
    assert scene.pulls(repository) == [first, first]
    away.stop()
    assert scene.act("release", scene.tag(repository), code=1) == {"cache-a": "released", "cache-b": "away"}
    away.start().wait_ready()
    wait_for("cache-b has let go", lambda: scene.tag(repository) not in scene.holds("cache-b"), CAUGHT_UP)
    assert scene.pulls(repository) == [second, second]


def test_a_cache_that_lost_its_state_is_told_again(scene):
    repository, first, _ = scene.two()
    scene.hold(repository, first)
    cache = scene.caches["cache-b"]
    cache.stop()
    shutil.rmtree(cache.folder / "state")
    cache.start().wait_ready()
    wait_for("cache-b holds it again", lambda: scene.tag(repository) in scene.holds("cache-b"), CAUGHT_UP)
    assert scene.pulls(repository) == [first, first]
    scene.act("release", scene.tag(repository))


@pytest.mark.parametrize("stop_at", ["before", "after"])
def test_keeld_killed_around_the_write_goes_on(scene, stop_at):
    """Between the note in its ledger and the cache's answer; the write itself done or not."""
    repository, first, second = scene.two()
    door = scene.doors["cache-b"]
    door.stop_at = stop_at
    asked = threading.Thread(target=scene.keeld.ctl, args=("hold", scene.tag(repository), "--at", first, "--reason", "killed"))
    asked.start()
    assert door.reached.wait(60)
    scene.keeld.kill()
    asked.join()
    assert (scene.tag(repository) in scene.holds("cache-b")) == (stop_at == "after")
    door.stop_at = None
    scene.keeld.start().wait_ready()
    wait_for("both caches hold it", lambda: scene.state(repository) == {"cache-a": "held", "cache-b": "held"}, CAUGHT_UP)
    assert scene.pulls(repository) == [first, first]
    # It knows them for its own.
    assert scene.act("release", scene.tag(repository)) == {"cache-a": "released", "cache-b": "released"}
    assert scene.pulls(repository) == [second, second]


def test_keeld_killed_before_it_lifts_lifts_later(scene):
    repository, first, second = scene.two()
    scene.hold(repository, first)
    door = scene.doors["cache-b"]
    door.stop_at = "before"
    asked = threading.Thread(target=scene.keeld.ctl, args=("release", scene.tag(repository)))
    asked.start()
    assert door.reached.wait(60)
    scene.keeld.kill()
    asked.join()
    door.stop_at = None
    scene.keeld.start().wait_ready()
    wait_for("cache-b has let go", lambda: scene.tag(repository) not in scene.holds("cache-b"), CAUGHT_UP)
    assert scene.pulls(repository) == [second, second]


def test_holds_of_others_are_listed_and_left_alone(scene):
    repository, first, second = scene.two()
    tag = scene.tag(repository)
    scene.write("cache-a", "PUT", tag, theirs(first))

    def listed():
        return [item for item in scene.keeld.get("/v1/holds?limit=1000")["items"] if item["tag"] == tag and not item["own"]]

    # An event makes keeld look; it does not wait for its next round.
    found = wait_for("keeld lists it", listed, 10)
    assert [(one["cache"], one["state"]) for one in found[0]["caches"]] == [("cache-a", "foreign")]
    assert found[0]["owner"] not in (None, "keeld") and found[0]["digest"] == first
    assert scene.act("release", tag, code=1) == {"cache-a": "foreign"}
    assert scene.hold(repository, second, code=1) == {"cache-a": "foreign", "cache-b": "held"}
    assert scene.holds("cache-a")[tag]["reason"] == "theirs"
    assert scene.act("release", tag, code=1) == {"cache-a": "foreign", "cache-b": "released"}
    assert scene.holds("cache-a")[tag]["digest"] == first and tag not in scene.holds("cache-b")
    scene.write("cache-a", "DELETE", tag)
    wait_for("keeld lists it no more", lambda: not listed(), 10)


def test_a_hold_ends_when_it_was_said_to(scene):
    repository, first, second = scene.two()
    scene.hold(repository, first, "--for", "3s")
    assert scene.pulls(repository) == [first, first]
    wait_for("nodes pull the newest again", lambda: scene.pulls(repository) == [second, second], 20)
    wait_for("keeld says so", lambda: scene.state(repository) == {}, 20)

    def noted():
        entries = scene.keeld.get("/v1/ledger?limit=1000&kind=released")["items"]
        return [one for one in entries if one["tag"] == scene.tag(repository) and one["code"] == "expired"]

    wait_for("and keeps it", noted, 10)


def test_a_hold_that_ends_while_keeld_is_down_is_over_when_it_is_back(scene):
    repository, first, second = scene.two()
    scene.hold(repository, first, "--for", "6s")
    scene.keeld.stop()
    assert scene.pulls(repository) == [first, first]
    wait_for("the caches end it by themselves", lambda: scene.pulls(repository) == [second, second], 20)
    scene.keeld.start().wait_ready()

    def noted():
        entries = scene.keeld.get("/v1/ledger?limit=1000&kind=released")["items"]
        return [one["code"] for one in entries if one["tag"] == scene.tag(repository)]

    wait_for("keeld notes it", lambda: noted()[-1:] == ["expired"], 10)
    wait_for("and nothing is left of it", lambda: scene.state(repository) == {}, CAUGHT_UP)
    assert all(scene.tag(repository) not in scene.holds(cache) for cache in CACHES)
    assert not [one for one in scene.keeld.get("/v1/status")["problems"] if scene.tag(repository) in one["text"]]
    assert scene.pulls(repository) == [second, second]


def test_a_hold_that_ends_between_two_pages_hides_no_other(scene):
    repositories = [scene.repository() for _ in range(3)]
    for repository in repositories:
        scene.hold(repository, scene.seed, "--force")
    foreign = scene.repository()
    for cache in CACHES:
        scene.write(cache, "PUT", scene.tag(foreign), theirs(scene.seed))
    wait_for("keeld lists theirs", lambda: scene.keeld.get("/v1/holds")["items"][-1]["tag"] == scene.tag(foreign), 10)
    page = scene.keeld.get("/v1/holds?limit=2")
    assert [item["tag"] for item in page["items"]] == [scene.tag(one) for one in repositories[:2]]
    for repository in repositories[:2]:
        scene.act("release", scene.tag(repository))
    rest = []
    while page["next"]:
        page = scene.keeld.get(f"/v1/holds?limit=1&after={urllib.parse.quote(page['next'])}")
        rest += [(item["tag"], item["own"]) for item in page["items"]]
    assert rest == [(scene.tag(repositories[2]), True), (scene.tag(foreign), False)]
    assert scene.keeld.request("GET", "/v1/holds?after=2")[0] == 400
    scene.act("release", scene.tag(repositories[2]))
    for cache in CACHES:
        scene.write(cache, "DELETE", scene.tag(foreign))


def test_a_digest_that_is_not_all_there_takes_force(scene):
    repository, first, second = scene.two()
    absent = "sha256:" + hashlib.sha256(repository.encode()).hexdigest()
    assert scene.hold(repository, absent, code=1) == {"cache-a": "incomplete", "cache-b": "incomplete"}
    assert scene.pulls(repository) == [second, second] and scene.state(repository) == {}
    assert scene.hold(repository, absent, "--force") == {"cache-a": "held", "cache-b": "held"}
    assert scene.holds("cache-a")[scene.tag(repository)]["verified"] is None
    assert scene.pull("cache-a", repository).status != 200
    wait_for("keeld tells of it", lambda: scene.problems("hold-unfetchable") and scene.problems("hold-incomplete"), 40)
    assert scene.keeld.ctl("status")[0] == 1
    scene.act("release", scene.tag(repository))
    wait_for("and no longer", lambda: not scene.problems("hold-unfetchable") and not scene.problems("hold-incomplete"), 40)


def test_one_platform_for_a_tag_that_answers_an_index_takes_force(scene):
    repository, first, _ = scene.two()
    single = scene.upstream.manifest(repository, first).json["manifests"][0]["digest"]
    assert scene.hold(repository, single, code=1) == {None: "single-platform"}
    assert scene.hold(repository, single, "--force") == {"cache-a": "held", "cache-b": "held"}
    assert scene.pull("cache-a", repository).digest == single
    scene.act("release", scene.tag(repository))


def test_actions_are_refused_off_the_socket(scene):
    connection = http.client.HTTPConnection("127.0.0.1", scene.keeld.events_port, timeout=30)
    with contextlib.closing(connection):
        connection.request("POST", "/v1/actions", b"{}")
        answer = connection.getresponse()
        assert answer.status == 404 and json.load(answer)["error"]["code"] == "not-served"  # events only
    before = scene.keeld.config
    scene.keeld.stop()
    try:
        scene.keeld.write({"listen": [before["listen"][0], {"at": before["listen"][1]["at"], "serve": ["events", "api"]}]})
        scene.keeld.start().wait_ready()
        place = f"http://127.0.0.1:{scene.keeld.events_port}"
        done = subprocess.run([build() / "keelctl", "--server", place, "release", "redis:8"], capture_output=True, text=True, timeout=30)
        assert done.returncode == 1 and "unix sockets only" in done.stderr
    finally:
        scene.keeld.stop()
        scene.keeld.config = before
        scene.keeld.write()
        scene.keeld.start().wait_ready()


def test_a_look_up_that_is_answered_from_a_hold_is_a_problem(scene):
    """caches[].lookup names what nodes pull from: told with what to do, and its answers are not used."""
    repository, first, second = scene.two()
    before = scene.keeld.config
    scene.hold(repository, first)
    scene.keeld.stop()
    wrong = scene.caches["cache-a"].url(REGISTRY)
    try:
        caches = [merged(one, {"lookup": wrong}) if one["name"] == "cache-a" else one for one in before["caches"]]
        scene.keeld.write({"caches": caches})
        scene.keeld.start().wait_ready()
        # Nothing is known of another tag of it, so it is looked up.
        scene.upstream.put_manifest(repository, "stable", scene.upstream.manifest(repository, second).body)
        tag = f"{REGISTRY}/{repository}:stable"
        body = theirs(first)
        scene.write("cache-a", "PUT", tag, body)
        assert scene.act("hold", tag, "--reason", "what does it answer?", code=1) == {None: "no-answer"}
        problem = scene.problems("lookup-held")[0]
        assert wrong in problem["text"] and "keel_hold off" in problem["next"]
        assert scene.newest(repository) == second
        scene.write("cache-a", "DELETE", tag)
    finally:
        scene.keeld.stop()
        scene.keeld.config = before
        scene.keeld.write()
        scene.keeld.start().wait_ready()
    assert not scene.problems("lookup-held")
    scene.act("release", scene.tag(repository))


# --- what workloads are told --------------------------------------------------------------------------------


def test_a_held_tag_in_why_and_status(stage):
    """Held at what runs: current, whatever is newer. Released: followed again, and proven."""
    repository = "held/app"
    stage.deploy("holds", "app", repository)
    workload = "Deployment/holds/app"
    runs = stage.keeld.get(f"/v1/workloads/{workload}")["containers"][0]["newest"]["digest"]
    reference = stage.image(f"{repository}:latest")
    done, out, err = stage.keeld.ctl("hold", reference, "--at", runs, "--reason", "not before Monday", "--for", "72h")
    assert done == 0, (out, err)
    newer = stage.move(repository)
    assert stage.pull(repository) == runs

    def told():
        body = stage.keeld.get(f"/v1/workloads/{workload}")
        newest = body["containers"][0]["newest"]
        return body if body["reason"] == "held" and newest and newest["digest"] == newer else None

    body = wait_for("the newest beside the held one", told, 30)
    hold = body["containers"][0]["hold"]
    assert body["verdict"] == "current" and hold["digest"] == runs and hold["reason"] == "not before Monday" and hold["until"]
    done, out, _ = stage.keeld.ctl("why", workload)
    assert done == 0 and "held at" in out and "not before Monday" in out and newer[:19] in out
    done, out, _ = stage.keeld.ctl("status")
    assert "not before Monday" in out
    before = len(stage.patches("holds", "app"))
    assert stage.keeld.ctl("release", reference)[0] == 0
    stage.wait_current("holds", "app", newer)
    assert len(stage.patches("holds", "app")) == before + 1


def test_v2_holding_an_older_digest_restarts_nothing_by_itself(stage):
    """It waits for approval; restarted by hand the pods run the held digest, and after the release the newest again."""
    repository = "held/back"
    stage.deploy("holds", "back", repository)
    workload = "Deployment/holds/back"
    older = stage.keeld.get(f"/v1/workloads/{workload}")["containers"][0]["newest"]["digest"]
    newer = stage.move(repository)
    stage.pull(repository)
    stage.wait_current("holds", "back", newer)
    before = len(stage.patches("holds", "back"))
    reference = stage.image(f"{repository}:latest")
    assert stage.keeld.ctl("hold", reference, "--at", older, "--reason", "the new one leaks")[0] == 0
    body = wait_for(
        "it waits for approval",
        lambda: next((one for one in [stage.keeld.get(f"/v1/workloads/{workload}")] if one["verdict"] == "roll"), None),
    )
    assert [gate["gate"] for gate in body["gates"]] == ["awaiting-approval"]
    assert body["containers"][0]["target"]["digest"] == older
    stage.kube.patch("deployments", "holds", "back", {"spec": {"template": {"metadata": {"annotations": {"by": "hand"}}}}})
    held = stage.wait_current("holds", "back", older)
    assert held["reason"] == "held"
    assert len(stage.patches("holds", "back")) == before
    assert stage.keeld.ctl("release", reference)[0] == 0
    stage.wait_current("holds", "back", newer)
    assert len(stage.patches("holds", "back")) == before + 1


@contextlib.contextmanager
def second_cache(stage):
    """Another cache that keeld knows, before the same registry proxy; no node asks it."""
    cache = Nginx(stage.folder / "cache-b", {LAB_REGISTRY: stage.through.port}, companion=stage.keeld.events_url,
                  secret=stage.folder / "events.secret", cache="cache-b")  # fmt: skip
    cache.start().wait_ready()
    known = {"name": "cache-b", "api": cache.api_url, "secret": str(cache.api_secret), "lookup": cache.lookup_url}
    try:
        with settings(stage, {"caches": [*stage.keeld.config["caches"], known]}):
            wait_for("keeld leads", lambda: stage.keeld.get("/v1/status")["leader"]["held"], 60)
            yield cache
    finally:
        cache.stop()


def test_v2_a_hold_in_one_of_two_caches_blocks_until_it_is_lifted(stage):
    """What a pull gets depends on its way then: nothing is rolled, whatever the tag answers."""
    repository = "held/one-of-two"
    workload = "Deployment/holds/one-of-two"
    reference = stage.image(f"{repository}:latest")
    stage.deploy("holds", "one-of-two", repository)
    older = stage.keeld.get(f"/v1/workloads/{workload}")["containers"][0]["newest"]["digest"]
    with second_cache(stage) as other:
        newer = stage.move(repository)
        stage.pull(repository)
        stage.wait_current("holds", "one-of-two", newer)
        before = len(stage.patches("holds", "one-of-two"))
        write(other, "PUT", reference, theirs(older))
        wait_reason(stage, workload, "held-at-cache", 10)
        newest = stage.move(repository)
        assert stage.pull(repository) == newest
        body = wait_newest(stage, workload, newest)
        assert (body["verdict"], body["reason"]) == ("blocked", "held-at-cache")
        assert "cache-a does not hold it" in body["sentence"] and "cache-b holds" in body["sentence"]
        assert body["containers"][0]["hold"]["everywhere"] is False
        assert len(stage.patches("holds", "one-of-two")) == before
        write(other, "DELETE", reference)
        stage.wait_current("holds", "one-of-two", newest)
        assert len(stage.patches("holds", "one-of-two")) == before + 1


@pytest.mark.parametrize("moment", ["between the gate and the write", "while its pods start"])
def test_r2_a_hold_that_overtakes_a_rollout_is_what_keeld_says_runs(stage, moment):
    """The pods get the held content; that is not the target, so nothing is called proven, and it is due again afterwards."""
    name = f"overtaken-{len(moment)}"
    repository = f"held/{name}"
    workload = f"Deployment/holds/{name}"
    reference = stage.image(f"{repository}:latest")
    stage.deploy("holds", name, repository)
    other = stage.move(repository, "other")

    def proven():
        wait_for("the ledger is written", lambda: stage.keeld.get("/v1/status")["ledger"]["queued"] == 0)
        return [one["to"] for one in entries(stage, kind="verified", workload=workload)]

    def rule(request):
        if request.method == "PATCH" and f"/{name}?" in request.path:
            stage.proxy.rule = lambda _: PASS
            write(stage.nginx, "PUT", reference, theirs(other))
        return PASS

    if moment == "between the gate and the write":
        stage.proxy.rule = rule
    else:
        stage.told.hold()
    newer = stage.move(repository)
    assert stage.pull(repository) == newer
    if moment == "while its pods start":
        stage.wait_state("holds", name, "verifying")
        write(stage.nginx, "PUT", reference, theirs(other))
        stage.told.release()
    wait_ended(stage, workload, newer, "superseded")
    held = stage.wait_current("holds", name, other)
    assert held["reason"] == "held" and held["containers"][0]["hold"]["reason"] == "theirs"
    assert newer not in proven()
    write(stage.nginx, "DELETE", reference)
    wait_ended(stage, workload, newer)
    stage.wait_current("holds", name, newer)
    assert proven().count(newer) == 1
    assert [one["state"] for one in rollouts(stage, workload) if newer in reached(one)] == ["done", "superseded"]


def test_a_hold_on_a_real_node(lab, namespace):
    """Hold, restart: every pod runs the held content while upstream has another. Release: the new one."""
    tag = f"{lab.image('holds/node')}:latest"
    one = lab.push("holds/node", "latest", "one")
    item = deployment(namespace, "node", tag, replicas=2)
    lab.kube.create(item)
    workload = f"Deployment/{namespace}/node"
    wait_rolled_out(lab, workload)
    two = lab.push("holds/node", "latest", "two")
    wait_ended(lab, workload, two.digest)

    def contents():
        pods = {pod["metadata"]["name"] for pod in lab.kube.pods(namespace, "node")}
        return sorted(lab.content(found) for found in lab.running(namespace) if found["pod"] in pods)

    assert lab.keeld.ctl("hold", tag, "--at", one.digest, "--reason", "two is bad")[0] == 0
    before = fetch(lab, workload)["spec"]
    restart = {"spec": {"template": {"metadata": {"annotations": {"restarted": "by hand"}}}}}
    lab.kube.patch("deployments", namespace, "node", restart)
    wait_rolled_out(lab, workload)
    wait_for("the held content runs", lambda: contents() == ["one", "one"], 60, interval=0.2)
    wait_reason(lab, workload, "held")
    after = fetch(lab, workload)["spec"]
    assert after["template"]["metadata"]["annotations"].pop("restarted") == "by hand"
    assert after == before
    assert lab.nginx.through(lab.registry).digest("holds/node", "latest") == one.digest
    assert lab.keeld.ctl("release", tag)[0] == 0
    wait_for("the newest content runs", lambda: contents() == ["two", "two"], 90, interval=0.2)
    wait_reason(lab, workload, "up-to-date")
    assert [reached(item) for item in rollouts(lab, workload)] == [[two.digest], [two.digest]]
