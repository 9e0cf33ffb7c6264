"""What fails around keeld: the API server, the way to it, the disk, the cache, another keeld. No action is lost, none doubled."""

import contextlib
import os
import shutil
import time

import pytest

from lab.cut import CUT, LOSE, PASS, CutProxy, Refuse
from lab.process import run
from lab.stage import Ledger
from lab.wait import wait_for
from test_events import Sender, digest, event, known


def problems(keeld):
    return {one["code"]: one["text"] for one in keeld.get("/v1/status")["problems"]}


def no_cluster_problem(stage):
    wait_for("no problem with the cluster", lambda: "cluster-unreachable" not in problems(stage.keeld), 90, interval=0.1)


# The API server and the way to it

def test_p7_the_api_server_is_killed_while_keeld_watches(stage):
    """What changed while no watch got through is known afterwards: the server says 410, and keeld lists again."""
    stage.deploy("api-watch", "app", "api-watch/app")
    stage.proxy.rule = lambda request: CUT if request.watch else PASS
    stage.proxy.cut_watches()
    wait_for("keeld tells", lambda: "cluster-unreachable" in problems(stage.keeld))
    # While it is blind: one comes, one goes from sight, and the server forgets how that happened.
    stage.kube.namespace("api-late", labels={"keel.sh/enrolled": "true"})
    stage.move("api-late/app")
    stage.kube.patch("namespaces", None, "api-watch", {"metadata": {"annotations": {"keel.sh/policy": "never"}}})
    stage.api.kill()
    stage.api.start().wait_ready(120)
    came = len(stage.proxy.requests)
    stage.proxy.rule = lambda request: PASS
    no_cluster_problem(stage)
    wait_for("the veto is seen", lambda: stage.keeld.get("/v1/workloads/Deployment/api-watch/app")["verdict"] == "ignore")
    assert [one for one in stage.proxy.requests[came:] if one.gone or one.status == 410], "the server had forgotten nothing"
    stage.deploy("api-late", "app", "api-late/app")
    for namespace in ("api-watch", "api-late"):
        stage.pull(f"{namespace}/app")
    target = stage.move("api-late/app")
    stage.move("api-watch/app")
    stage.wait_current("api-late", "app", target)
    assert list(stage.exactly_once("api-late", "app")) == [target]
    assert stage.patches("api-watch") == []


def test_p7_the_api_server_is_killed_during_a_rollout(stage):
    """The patch was accepted, then the server dies: its answer, the watches and the pods' news are lost."""
    stage.deploy("api-rolls", "app", "api-rolls/app", replicas=2)
    stage.told.hold()
    stage.proxy.rule = lambda request: LOSE if request.method == "PATCH" else PASS
    target = stage.move("api-rolls/app")
    wait_for("the patch is accepted", lambda: [one for one in stage.proxy.seen("PATCH", "/api-rolls/") if one.status == 200])
    stage.api.kill()
    stage.proxy.rule = lambda request: PASS
    wait_for("keeld tells", lambda: "cluster-unreachable" in problems(stage.keeld))
    stage.told.release()
    stage.api.start().wait_ready(120)
    stage.wait_current("api-rolls", "app", target, deadline=120)
    no_cluster_problem(stage)
    assert list(stage.exactly_once("api-rolls", "app")) == [target]
    assert [one["code"] for one in Ledger(stage.keeld.ledger).entries("applied")][-1] == "found"


def test_p7_watches_that_are_cut_go_on_where_they_were(stage):
    stage.deploy("cuts", "app", "cuts/app")
    wait_for("all watches are there", lambda: len(stage.proxy.streams) >= 5, 60)
    came = len(stage.proxy.requests)
    done = []
    for _ in range(4):
        assert stage.proxy.cut_watches() >= 5
        target = stage.move("cuts/app")
        stage.wait_current("cuts", "app", target)
        done.append(target)
        wait_for("the watches are back", lambda: len(stage.proxy.streams) >= 5)
    assert list(stage.exactly_once("cuts", "app")) == done
    lists = [one for one in stage.proxy.requests[came:] if one.method == "GET" and "limit=" in one.path]
    assert lists, "pods are listed for every proof: the pattern finds lists"
    # Of nodes preflight asks; all that is watched of whole collections stays as it is known.
    collections = [one for one in lists if "/namespaces/" not in one.path and "/nodes?" not in one.path]
    assert not collections, f"listed again without need: {collections}"


def test_p7_answers_that_are_lost_are_not_written_again(stage):
    """The server took the patch, and its answer never came: the object tells."""
    stage.deploy("lost", "app", "lost/app")
    stage.proxy.rule = lambda request: LOSE if request.method == "PATCH" else PASS
    done = []
    for _ in range(3):
        done.append(stage.move("lost/app"))
        stage.wait_current("lost", "app", done[-1])
    assert list(stage.exactly_once("lost", "app")) == done
    # What libcurl sends once more by itself is refused for its old resourceVersion.
    assert {one.status for one in stage.proxy.seen("PATCH", "/lost/")} <= {200, 409}


def test_p7_requests_that_never_arrive_are_made_again(stage):
    stage.deploy("cut", "app", "cut/app")
    stage.proxy.rule = lambda request: CUT if request.method == "PATCH" and len(stage.proxy.seen("PATCH", "/cut/")) < 3 else PASS
    target = stage.move("cut/app")
    stage.wait_current("cut", "app", target)
    assert [one.done for one in stage.proxy.seen("PATCH", "/cut/")] == [CUT, CUT, CUT, PASS]
    done = stage.exactly_once("cut", "app")
    assert list(done) == [target]


def test_p7_d6_too_many_requests_waits_as_long_as_it_is_told(stage):
    stage.deploy("busy", "app", "busy/app")
    busy = Refuse(429, {"Retry-After": "2"})

    def rule(request):
        ours = "/namespaces/busy/" in request.path and (request.method == "PATCH" or "/pods" in request.path)
        before = [one for one in stage.proxy.seen(request.method, request.path.split("?")[0]) if one.done == "429"]
        return busy if ours and len(before) < 2 else PASS

    stage.proxy.rule = rule
    target = stage.move("busy/app")
    stage.wait_current("busy", "app", target)
    assert list(stage.exactly_once("busy", "app")) == [target]
    patches = stage.proxy.seen("PATCH", "/busy/")
    assert [one.done for one in patches] == ["429", "429", PASS]
    assert all(later.at - one.at >= 2 for one, later in zip(patches, patches[1:]))
    assert len([one for one in stage.proxy.seen("GET", "/busy/pods") if one.done == "429"]) == 2


# The disk

@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of 4 MB."""
    if os.getuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    run("mount", "-t", "tmpfs", "-o", "size=4m", "keeld-test", tmp_path)
    yield tmp_path
    run("umount", "--lazy", tmp_path)


def fill(folder):
    file = os.open(folder / "ballast", os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(file, b"\0" * 4096)
    os.close(file)


def test_p7_d7_a_full_disk_delays_and_loses_nothing(stage, small_disk):
    """Events are answered 503, nothing is written to the cluster; with room again all of it happens, once."""
    stage.deploy("full", "app", "full/app")
    stage.keeld.stop()
    folder = small_disk / "ledger"
    folder.mkdir()
    for path in stage.keeld.ledger.parent.glob("ledger.db*"):
        shutil.copy(path, folder)
    caches = [*stage.keeld.config["caches"], {"name": "cache-b", "api": "http://127.0.0.1:9/keel"}]
    keeld = stage.another_keeld("full-disk", {"ledger": {"path": str(folder / "ledger.db")}, "caches": caches})
    try:
        keeld.start().wait_ready()
        stage.wait_current("full", "app", keeld=keeld)
        wait_for("leader", lambda: keeld.get("/v1/status")["leader"]["held"])
        fill(small_disk)
        sender = Sender(keeld, stage.folder / "events.secret")
        status = wait_for("refused", lambda: (answer := sender.post([event(1, "full", cache="cache-b")]))[0] == 503 and answer)
        assert status[2]["error"]["code"] == "ledger" and str(folder / "ledger.db") in status[2]["error"]["text"]
        assert "ledger-not-writable" in problems(keeld)
        target = stage.move("full/app")
        stage.pull("full/app")
        state = wait_for("an intent that is not on disk", lambda: stage.rollouts("full", "app", keeld))
        assert state[0]["state"] in ("waiting", "preflight", "intended")
        assert sender.post([event(2, "full", cache="cache-b")])[0] == 503
        assert stage.patches("full") == [] and keeld.request("GET", "/readyz")[0] == 200
        (small_disk / "ballast").unlink()
        assert wait_for("taken", lambda: sender.post([event(3, "full", cache="cache-b")])[0] == 204)
        stage.wait_current("full", "app", target, keeld=keeld)
        assert "ledger-not-writable" not in problems(keeld)
        done = stage.exactly_once("full", "app", keeld)
        assert list(done) == [target]
        seen = [one["to"] for one in Ledger(keeld.ledger).entries("observed") if one["tag"] == "registry.example/team/app:full"]
        assert seen == [digest(number) for number in (1, 2, 3)]
        assert known(keeld)["full"] == digest(3)
    finally:
        keeld.stop()


# The cache

def test_d8_errors_of_the_cache_are_no_changes(stage):
    """The registry behind it away (502), then nginx itself: no verdict changes; what moved meanwhile is seen afterwards."""
    stage.deploy("away", "app", "away/app")
    why = "/v1/workloads/Deployment/away/app"
    before = stage.keeld.get(why)
    for server in (stage.through, stage.nginx):
        wait_for("the ledger has the rollout before", lambda: stage.keeld.get("/v1/status")["ledger"]["queued"] == 0)
        server.stop()
        failed = wait_for("the failure is told", lambda: stage.keeld.get(why)["containers"][0]["freshness"]["failure"])
        assert failed
        now = stage.keeld.get(why)
        assert (now["verdict"], now["reason"]) == (before["verdict"], before["reason"])
        assert now["containers"][0]["newest"]["digest"] == before["containers"][0]["newest"]["digest"]
        target = stage.move("away/app")
        assert stage.rollouts("away", "app") == [] or stage.rollouts("away", "app")[0]["ended"]
        server.start().wait_ready()
        stage.wait_current("away", "app", target)
        assert not stage.keeld.get(why)["containers"][0]["freshness"]["failure"]
        before = stage.keeld.get(why)
    wait_for("the cache is well", lambda: "cache-unreachable" not in problems(stage.keeld), 60)
    assert len(stage.exactly_once("away", "app")) == 2


def test_d8_p7_a_tag_that_is_gone_is_no_change(stage):
    """404 from the cache: nothing is rolled, what runs stays what is compared with; under the tag again it goes on."""
    stage.deploy("gone", "app", "gone/app")
    why = "/v1/workloads/Deployment/gone/app"
    digest = stage.upstream.digest("gone/app", "latest")
    stage.upstream.delete_manifest("gone/app", digest)
    shutil.rmtree(stage.through.folder / "through/docker/registry/v2/repositories/gone")  # it would answer what it had
    wait_for("404", lambda: stage.pull("gone/app") == "")
    failed = wait_for("told", lambda: stage.keeld.get(why)["containers"][0]["freshness"]["failure"], 60)
    assert failed and stage.keeld.get(why)["verdict"] == "current" and stage.patches("gone") == []
    assert stage.keeld.get(why)["containers"][0]["newest"]["digest"] == digest
    target = stage.move("gone/app")
    stage.wait_current("gone", "app", target)
    assert list(stage.exactly_once("gone", "app")) == [target]


# The Lease and the ledger

def test_p7_two_keelds_one_writes(stage):
    """The second one knows all and writes nothing; when the first is killed it takes over; a leader cut off from its Lease
    stops writing before another one may begin."""
    stage.deploy("two", "app", "two/app")
    first = stage.keeld
    proxy = CutProxy(stage.api)
    kubernetes = {**first.config["kubernetes"], "kubeconfig": str(stage.through_proxy(proxy))}
    second = stage.another_keeld("second", {"kubernetes": kubernetes})
    second.config["ledger"]["onLoss"] = "act"  # it has a ledger of its own
    second.write()
    first.write({"ledger": {"onLoss": "act"}})  # and it comes back to a Lease that remembers the other one

    def leads(keeld):
        return keeld.get("/v1/status")["leader"]["held"]

    try:
        second.start().wait_ready()
        stage.wait_current("two", "app", keeld=second)
        assert leads(first) and not leads(second)
        assert "not-leader" in problems(second)
        targets = [stage.move("two/app")]
        for keeld in (first, second):
            stage.wait_current("two", "app", targets[-1], keeld=keeld)
        assert len(stage.patches("two")) == 1 and proxy.seen("PATCH") == []

        first.kill()
        targets.append(stage.move("two/app"))
        stage.wait_current("two", "app", targets[-1], keeld=second)  # as soon as the Lease has run out
        assert leads(second) and len(stage.patches("two")) == 2 and len(proxy.seen("PATCH", "/two/")) == 1

        first.start().wait_ready()
        assert not leads(first)
        proxy.rule = lambda request: CUT if "/leases/" in request.path else PASS
        cut_at = time.monotonic()
        wait_for("the second one has given up", lambda: not leads(second), 30)
        gave_up = time.monotonic() - cut_at
        assert not leads(first) and gave_up < 15, gave_up
        came = len(proxy.requests)
        targets.append(stage.move("two/app"))
        stage.wait_current("two", "app", targets[-1], keeld=first)
        assert leads(first) and not leads(second) and "not-leader" in problems(second)
        assert len(stage.patches("two")) == 3
        assert not [one for one in proxy.requests[came:] if one.method == "PATCH"]
        lease = ("leases", "keel", "keeld")
        own = first.get("/v1/status")["ledger"]["id"]
        stage.kube.wait_for("the first ledger again", *lease, lambda item: item["metadata"]["annotations"]["keel.sh/ledger"] == own)
        wait_for("the ledger is written", lambda: first.get("/v1/status")["ledger"]["queued"] == 0)
    finally:
        second.stop()
        proxy.stop()
        first.write({"ledger": {"onLoss": "observe"}})
    markers = [marker for marker in stage.markers("two", "app") if marker]
    assert len(markers) == len(targets) == 3
    intents = [row["marker"] for keeld in (first, second) for row in Ledger(keeld.ledger).rollouts()
               if row["workload"] == "Deployment/two/app" and row["applied"]]  # fmt: skip
    assert sorted(intents) == sorted(markers)


def test_p7_a_lost_ledger_starts_in_observe(stage):
    """Its intents and rejections are lost with it: nothing is written until somebody says so."""
    stage.deploy("loss", "app", "loss/app")
    keeld = stage.keeld
    keeld.stop()
    kept = keeld.folder / "kept"
    kept.mkdir()
    for path in keeld.folder.glob("ledger.db*"):
        path.rename(kept / path.name)
    try:
        keeld.start().wait_ready()
        wait_for("the loss is noticed", lambda: "ledger-lost" in problems(keeld), 60)
        assert keeld.get("/v1/status")["mode"] == "observe"
        target = stage.move("loss/app")
        stage.pull("loss/app")

        def judged():
            body = keeld.get("/v1/workloads/Deployment/loss/app")
            newest = body["containers"][0]["newest"]
            return body if newest and newest["digest"] == target and body["verdict"] != "current" else None

        assert wait_for("judged", judged)["rollout"] is None
        assert stage.patches("loss") == []
        entries = Ledger(keeld.ledger).entries("intended")
        assert entries == []
    finally:
        keeld.stop()
        for path in keeld.folder.glob("ledger.db*"):
            path.unlink()
        for path in kept.iterdir():
            path.rename(keeld.folder / path.name)
        kept.rmdir()
        keeld.start().wait_ready()
    # With the ledger that the Lease remembers it acts again, on what moved meanwhile.
    stage.wait_current("loss", "app", target)
    assert list(stage.exactly_once("loss", "app")) == [target]
