"""The way back: what is marked reversible and failed on its content runs again what ran before, once, and goes on with the
next build. On a real node; at the worst moments without one. The API server's audit log tells what was written.
"""

import pytest

from lab.cut import HOLD, PASS
from lab.wait import wait_for
from lab.workloads import deployment
from scene import (
    entries, fetch, own_ledger, patches, reached, rollouts, running, settings, wait_ended, wait_reason, wait_rolled_out,
    wait_why,
)  # fmt: skip

REVERSIBLE = {"keel.sh/reversible": "true"}
QUICK = {"progressDeadlineSeconds": 6}
FALSE = ["/bin/false"]


@pytest.fixture
def own(lab, namespace):
    """Failures of its own: those of other tests do not open its breaker, nor these that of theirs."""
    with settings(lab, own_ledger(lab, f"restores-{namespace}")):
        yield namespace


def holds(lab):
    return {item["tag"]: item for item in lab.keeld.get("/v1/holds")["items"]}


def states(lab, name):
    return [(item["state"], reached(item)) for item in rollouts(lab, name)]


def run_first(lab, namespace, repository, tag="latest", name="app", **more):
    """A Deployment that runs the tag's first build, and is current."""
    first = lab.push(repository, tag, "one")
    item = deployment(namespace, name, lab.image(f"{repository}:{tag}"), spec=QUICK, probe=True, **more)
    lab.kube.create(item)
    workload = f"Deployment/{namespace}/{name}"
    wait_rolled_out(lab, workload)
    wait_reason(lab, workload, "up-to-date")
    return workload, first


def problems(lab):
    return {one["code"]: one["text"] for one in lab.keeld.get("/v1/status")["problems"]}


def test_s1_a_bad_build_of_a_tag_goes_back_and_waits_for_the_next_one(lab, own):
    """A restart alone would pull it again: the tag is held, for exactly as long as it is bad."""
    name, first = run_first(lab, own, "back/app", annotations=REVERSIBLE)
    tag = lab.image("back/app:latest")
    bad = lab.push("back/app", "latest", "bad", entrypoint=FALSE)
    restored = wait_ended(lab, name, first.digest)
    assert restored["cause"].startswith("restore of rollout ")
    wait_rolled_out(lab, name)
    assert [item["digest"] for item in running(lab, name)] == [first.digest]
    hold = holds(lab)[tag]
    assert hold["digest"] == first.digest and name in hold["reason"] and bad.digest[:19] in hold["reason"]
    wait_reason(lab, name, "held")
    (_, _), (state, to) = states(lab, name)
    assert (state, to) == ("rolled-back", [bad.digest])
    assert patches(lab, name) == [200, 200]
    lab.keeld.restart()
    wait_reason(lab, name, "held")

    good = lab.push("back/app", "latest", "good")
    wait_ended(lab, name, good.digest)
    wait_rolled_out(lab, name)
    assert [item["digest"] for item in running(lab, name)] == [good.digest]
    assert tag not in holds(lab) and patches(lab, name) == [200, 200, 200]


def test_s1_a_bad_newer_tag_goes_back_to_the_image_before(lab, own):
    """No hold: the template names the old tag again, byte for byte. The next version is taken."""
    marked = {**REVERSIBLE, "keel.sh/policy": "minor"}
    name, first = run_first(lab, own, "back/tagged", "1.0.0", annotations=marked)
    bad = lab.push("back/tagged", "1.1.0", "bad", entrypoint=FALSE)
    wait_ended(lab, name, first.digest)
    wait_rolled_out(lab, name)

    def image():
        return fetch(lab, name)["spec"]["template"]["spec"]["containers"][0]["image"]

    assert image() == lab.image("back/tagged:1.0.0")
    assert [item["digest"] for item in running(lab, name)] == [first.digest]
    assert states(lab, name) == [("done", [first.digest]), ("rolled-back", [bad.digest])]
    assert lab.image("back/tagged:1.0.0") not in holds(lab) and lab.image("back/tagged:1.1.0") not in holds(lab)
    wait_reason(lab, name, "target-rejected")
    assert patches(lab, name) == [200, 200]
    good = lab.push("back/tagged", "1.1.1", "good")
    wait_ended(lab, name, good.digest)
    assert image() == lab.image("back/tagged:1.1.1") and patches(lab, name) == [200, 200, 200]


def test_r4_no_healthy_neighbour_is_taken_back(lab, own):
    """Another workload is well with the build that one fails on: no hold, and a person is asked, once."""
    name, first = run_first(lab, own, "back/shared", annotations=REVERSIBLE)
    # A container that crashes may be ready for a moment, in which the Deployment would end the old pod.
    lab.kube.patch("deployments", own, "app", {"spec": {"minReadySeconds": 5}})
    beside = deployment(own, "beside", lab.image("back/shared:latest"))
    beside["spec"]["template"]["spec"]["containers"][0]["command"] = ["/bin/start"]
    lab.kube.create(beside)
    neighbour = f"Deployment/{own}/beside"
    wait_rolled_out(lab, neighbour)
    wait_reason(lab, neighbour, "up-to-date")
    bad = lab.push("back/shared", "latest", "bad", entrypoint=FALSE)
    wait_ended(lab, neighbour, bad.digest)
    wait_ended(lab, name, bad.digest, "failed")
    stuck = wait_for("a person is asked", lambda: problems(lab).get("restore-stuck"))
    assert name in stuck and neighbour in stuck
    assert lab.image("back/shared:latest") not in holds(lab)
    assert [one["code"] for one in entries(lab, workload=name, kind="refused")] == ["restore-stuck"]

    def serves():
        return first.digest in [item["digest"] for item in running(lab, name)]

    wait_for("the pod that was there still serves", serves, 30)
    assert [item["digest"] for item in running(lab, neighbour)] == [bad.digest]
    assert (patches(lab, name), patches(lab, neighbour)) == ([200], [200])


def test_s1_what_is_not_marked_stays_where_it_failed(lab, own):
    name, _ = run_first(lab, own, "back/unmarked")
    bad = lab.push("back/unmarked", "latest", "bad", entrypoint=FALSE)
    wait_ended(lab, name, bad.digest, "failed")
    answer = wait_reason(lab, name, "target-rejected")
    assert answer["containers"][0]["settings"]["reversible"]["value"] == "false" and answer["verdict"] == "blocked"
    assert lab.image("back/unmarked:latest") not in holds(lab)
    assert patches(lab, name) == [200] and "restore-stuck" not in problems(lab)


def test_s1_a_person_takes_back_what_is_proven(lab, own):
    """Not marked, and well by all that Kubernetes knows: rejected with the person's words, and back behind a hold."""
    name, first = run_first(lab, own, "back/ordered")
    assert lab.keeld.ctl("rollback", name)[0] == 1, "nothing was rolled out"
    second = lab.push("back/ordered", "latest", "two")
    wait_ended(lab, name, second.digest)
    code, out, _ = lab.keeld.ctl("rollback", name, "--reason", "orders are lost", "--dry-run")
    assert code == 0 and "would-roll-back" in out and lab.image("back/ordered:latest") not in holds(lab)
    code, out, err = lab.keeld.ctl("rollback", name, "--reason", "orders are lost")
    assert code == 0, (out, err)
    wait_ended(lab, name, first.digest)
    wait_rolled_out(lab, name)
    assert [item["digest"] for item in running(lab, name)] == [first.digest]
    assert states(lab, name) == [("done", [first.digest]), ("rolled-back", [second.digest])]
    assert [(one["code"], one["cause"]) for one in entries(lab, workload=name, kind="ordered")] == [("rollback", "root")]
    code, out, _ = lab.keeld.ctl("rollback", name)
    assert code == 1 and "nothing-to-undo" in out
    lab.keeld.restart()
    assert wait_reason(lab, name, "held")["verdict"] == "current"
    third = lab.push("back/ordered", "latest", "three")
    wait_ended(lab, name, third.digest)
    assert patches(lab, name) == [200, 200, 200] and lab.image("back/ordered:latest") not in holds(lab)


# --- without a kubelet: at the worst moment -------------------------------------------------------------------------


def crashing(stage, ns):
    """A reversible Deployment on its first digest, whose next one crashes; (workload, first digest, settings)."""
    stage.deploy(ns, "app", f"{ns}/app", annotations=REVERSIBLE)
    first = stage.keeld.get(f"/v1/workloads/Deployment/{ns}/app")["containers"][0]["newest"]["digest"]
    return f"Deployment/{ns}/app", first, own_ledger(stage, ns) | {"defaults": {"deadline": "3s"}}


def test_s1_a_kill_on_the_way_back_changes_nothing(stage):
    """At the write that brings it back: keeld dies, starts again, and writes the same once."""
    ns = "restore-kill"
    name, first, change = crashing(stage, ns)
    with settings(stage, change) as since:
        wait_reason(stage, name, "up-to-date")
        stage.told.crashing = {(ns, "app")}
        bad = stage.move(f"{ns}/app")

        def stop_the_second(request):
            back = request.method == "PATCH" and f"/{ns}/" in request.path and len(patches(stage, name, since)) > 0
            return HOLD if back else PASS

        stage.proxy.opened.clear()
        stage.proxy.rule = stop_the_second
        wait_for("the way back is about to be written", lambda: stage.proxy.seen("PATCH", f"/{ns}/", HOLD), 60)
        stage.told.crashing = set()
        stage.keeld.process.kill()
        stage.keeld.process.wait()
        stage.proxy.rule = lambda request: PASS
        stage.proxy.opened.set()
        stage.keeld.start().wait_ready()
        wait_ended(stage, name, first)
        assert states(stage, name) == [("done", [first]), ("rolled-back", [bad])]
        wait_for("both writes are in the audit log", lambda: len(patches(stage, name, since)) >= 2)
        assert patches(stage, name, since) == [200, 200]
        assert stage.image(f"{ns}/app:latest") in holds(stage)


def test_s1_the_old_content_is_tried_once_too(stage):
    """What ran before crashes as well: nothing is written a third time, until something newer is there."""
    ns = "restore-once"
    name, first, change = crashing(stage, ns)
    with settings(stage, change) as since:
        wait_reason(stage, name, "up-to-date")
        stage.told.crashing = {(ns, "app")}
        bad = stage.move(f"{ns}/app")
        wait_ended(stage, name, first, "failed")
        answer = wait_why(stage, name, "both are rejected", lambda told: told["reason"] == "target-rejected")
        assert answer["verdict"] == "blocked" and states(stage, name) == [("failed", [first]), ("failed", [bad])]
        assert patches(stage, name, since) == [200, 200]
        stage.keeld.restart()
        wait_reason(stage, name, "target-rejected")
        stage.told.crashing = set()
        third = stage.move(f"{ns}/app")
        wait_ended(stage, name, third)
        assert patches(stage, name, since) == [200, 200, 200]
        assert stage.image(f"{ns}/app:latest") not in holds(stage)


def test_s1_what_soaks_is_taken_back_over_a_restart(stage):
    """It ends as failed and opens no breaker; keeld dies right after its answer, and does it all the same."""
    ns = "restore-soak"
    name, first, change = crashing(stage, ns)
    with settings(stage, change | {"defaults": {"soak": "10m"}, "breaker": {"failures": 1}}) as since:
        wait_reason(stage, name, "up-to-date")
        two = stage.move(f"{ns}/app")
        wait_for("it soaks", lambda: [item["state"] for item in rollouts(stage, name)][:1] == ["soaking"], 60)
        code, out, err = stage.keeld.ctl("rollback", name, "--reason", "it is slow")
        assert code == 0, (out, err)
        stage.keeld.process.kill()
        stage.keeld.process.wait()
        stage.keeld.start().wait_ready()
        wait_for("the way back soaks", lambda: states(stage, name)[0] == ("soaking", [first]), 60)
        assert [(item["state"], item["reason"]) for item in rollouts(stage, name)][1] == ("failed", "rollback")
        assert states(stage, name)[1] == ("failed", [two]) and not stage.keeld.get("/v1/status")["breaker"]["open"]
        assert patches(stage, name, since) == [200, 200]


def test_s1_the_way_back_waits_for_no_window_no_place_and_no_breaker(stage):
    ns = "restore-now"
    name, first, change = crashing(stage, ns)
    one = {"pacing": {"cluster": "1/h", "namespace": "1/h", "concurrent": 1}, "breaker": {"failures": 1}}
    with settings(stage, change | one) as since:
        wait_reason(stage, name, "up-to-date")
        stage.told.crashing = {(ns, "app")}
        stage.move(f"{ns}/app")
        wait_for("its rollout is written", lambda: patches(stage, name, since))
        wait_for("its pod crashes", lambda: stage.keeld.get("/v1/status")["breaker"]["open"], 60)
        stage.told.crashing = set()
        wait_ended(stage, name, first)
        assert patches(stage, name, since) == [200, 200] and stage.keeld.get("/v1/status")["breaker"]["failures"] == 1
