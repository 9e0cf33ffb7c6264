"""Settings of the configuration on a real API server: a change is tried first, capped, and then takes effect everywhere
at once. A keeld of this test's own, whose label enrols nothing for the others.
"""

import datetime
import signal

import pytest
import yaml

from lab.day import Clock
from lab.keeld import merged
from lab.kubernetes import KEELD
from lab.wait import wait_for
from lab.workloads import deployment

LABEL = "plan.example/part"
FIRST, SECOND = ["plan-0", "plan-1"], ["plan-2", "plan-3"]
EACH = 3


def workloads(*namespaces):
    return sorted(f"Deployment/{name}/app-{number}" for name in namespaces for number in range(EACH))


@pytest.fixture(scope="module")
def namespaces(_stage):
    """Two enrolled by part=one, two that part=two would enrol; nothing runs in them."""
    for name in FIRST + SECOND:
        _stage.kube.namespace(name, labels={LABEL: "one" if name in FIRST else "two"})
        for number in range(EACH):
            _stage.kube.create(deployment(name, f"app-{number}", _stage.image("plan/app:latest"), replicas=0))


@pytest.fixture
def another(stage, namespaces, request):
    """A keeld in mode act with a ledger and a Lease of its own; not started."""
    name = request.node.name.replace("_", "-")[:40]
    base = {key: value for key, value in stage.keeld.config.items() if key == "kubernetes"}
    change = merged(base, {"kubernetes": {"lease": {"name": name}}, "enrolment": {"label": f"{LABEL}=one"}})
    keeld = stage.another_keeld(name, change)
    yield keeld
    keeld.stop()


def written(stage):
    """Requests of keeld that change something in these namespaces."""
    return [
        entry
        for entry in stage.api.requests(user=KEELD)
        if entry["verb"] in ("create", "update", "patch", "delete")
        and entry.get("objectRef", {}).get("namespace") in FIRST + SECOND
    ]


def standing(keeld, name):
    answer = keeld.get(f"/v1/workloads/{name}")
    return answer["verdict"], answer["reason"]


def reload(keeld, change, said):
    """SIGHUP, until keeld has said that of it."""
    count = lambda: keeld.log.read_text(errors="replace").count(said)  # noqa: E731
    before = count()
    keeld.write(change)
    keeld.process.send_signal(signal.SIGHUP)
    wait_for(f"keeld says {said}", lambda: count() > before, 20)


def refused_start(keeld):
    """A start that ends by itself, with exit code 2; what it said."""
    keeld.start()
    wait_for("keeld has ended", lambda: not keeld.running(), 30)
    assert keeld.process.returncode == 2
    return keeld.log.read_text(errors="replace")


def other_file(keeld, change):
    path = keeld.folder / "other.yaml"
    path.write_text(yaml.safe_dump(merged(keeld.config, change)))
    return path


def test_p8_a_change_is_tried_by_name_and_count_and_the_cap_guards_start_and_reload(stage, another):
    another.write({"cap": {"workloads": 5}})
    assert "would change 6, limit 5: refused (enrolled 6, rolled 0, released 0)" in refused_start(another)
    another.arguments = ["--yes"]
    another.start().wait_ready()
    another.stop()
    another.arguments = []
    another.start().wait_ready()  # nothing changes by it

    to_two = {"enrolment": {"label": f"{LABEL}=two"}}
    path = other_file(another, to_two)
    status, answer = another.request("POST", "/v1/plan", path.read_text())
    assert status == 200
    assert sorted(answer["enrolled"]) == workloads(*SECOND) and sorted(answer["released"]) == workloads(*FIRST)
    assert answer["rolled"] == [] and sorted(answer["unknown"]) == workloads(*SECOND)
    assert answer["counts"] == {"enrolled": 6, "rolled": 0, "released": 6, "unknown": 6, "changed": 12}
    assert answer["cap"] == 5 and answer["refused"].startswith("would change 12, limit 5: refused")
    code, out, _ = another.ctl("plan", "--config", path)
    assert code == 1 and "would change 12, limit 5: refused" in out
    assert all(name in out for name in workloads(*FIRST, *SECOND))
    assert another.ctl_json("plan", "--config", path)["counts"]["released"] == 6
    assert standing(another, workloads("plan-0")[0])[1] != "not-enrolled", "nothing is applied by trying"

    mistaken = other_file(another, {"capp": 3})
    code, _, said = another.ctl("plan", "--config", mistaken)
    assert code == 2 and "capp" in said and "did you mean" in said

    reload(another, to_two, "would change 12, limit 5: refused")
    assert standing(another, workloads("plan-0")[0])[1] != "not-enrolled"
    assert standing(another, workloads("plan-2")[0]) == ("ignore", "not-enrolled")
    told = {problem["code"]: problem for problem in another.get("/v1/status")["problems"]}
    assert "would change 12, limit 5: refused" in told["configuration-refused"]["text"]
    another.stop()
    assert "limit 5: refused (enrolled 6, rolled 0, released 6)" in refused_start(another)

    another.write({"cap": {"workloads": 12}, "enrolment": {"label": f"{LABEL}=one"}})
    another.start().wait_ready()
    code, out, _ = another.ctl("plan", "--config", other_file(another, to_two))
    assert code == 0 and "within the limit" in out
    reload(another, to_two, ": taken (all of it)")
    wait_for("what is enrolled", lambda: standing(another, workloads("plan-2")[0])[1] != "not-enrolled", 10)
    assert standing(another, workloads("plan-0")[0]) == ("ignore", "not-enrolled")
    another.stop()
    another.start().wait_ready()
    assert written(stage) == []


def test_p8_who_only_observed_begins_to_move_all_that_is_followed(stage, another):
    another.write({"mode": "observe", "cap": {"workloads": 5}})
    another.start().wait_ready()
    another.stop()
    another.write({"mode": "act", "cap": {"workloads": 5}})
    assert "would change 6, limit 5: refused" in refused_start(another)
    another.write({"mode": "act", "cap": {"workloads": 6}})
    another.start().wait_ready()
    another.stop()
    assert written(stage) == []


def test_p8_the_first_start_in_observe_is_free_and_what_needs_a_restart_is_named(stage, another):
    another.write({"mode": "observe", "cap": {"workloads": 1}})
    another.start().wait_ready()
    reload(another, {"mode": "act"}, "but for what needs a restart: mode)")
    assert another.get("/v1/status")["mode"] == "observe"
    reload(another, {"mode": "observe", "defaults": {"restartKey": "example/key"}}, "a restart: defaults.restartKey)")
    reload(another, {"enrolment": {"label": f"{LABEL}=two"}}, "would change 12, limit 1: refused")
    assert written(stage) == []


def shown(stage, name):
    """What stands on a workload, its controller's own annotation aside."""
    _, namespace, short = name.split("/")
    meta = stage.kube.get("deployments", namespace, short)["metadata"]
    annotations = {key: value for key, value in meta.get("annotations", {}).items() if key.startswith("keel")}
    assert "keeld" not in {entry["manager"] for entry in meta["managedFields"]}
    return meta["generation"], meta["labels"], annotations


def setting(keeld, name, key):
    """(value, layer) of a setting of the workload's first container."""
    found = keeld.get(f"/v1/workloads/{name}")["containers"][0]["settings"][key]
    return found["value"], found["layer"]


def test_p1_p2_defaults_and_phases_hold_at_once_everywhere_and_are_gone_as_they_came(stage, another):
    own, *others = workloads(*FIRST)
    stage.kube.patch("deployments", FIRST[0], "app-0", {"metadata": {"annotations": {"keel.sh/policy": "patch"}}})
    before = [shown(stage, name) for name in [own, *others]]
    another.start().wait_ready()

    def all_say(value, layer):
        found = {setting(another, name, "policy") for name in others}
        assert setting(another, own, "policy") == ("patch", "workload annotation"), "explicit beats default"
        return found == {(value, layer)}

    assert all_say("force", "default")
    reload(another, {"defaults": {"policy": "major"}}, ": taken (all of it)")
    wait_for("the new default", lambda: all_say("major", "default"), 10)
    phase = {"name": "one", "namespaces": ["plan-*"], "settings": {"policy": "minor", "minAge": "2h"}}
    reload(another, {"phases": [phase]}, ": taken (all of it)")
    wait_for("the phase's setting", lambda: all_say("minor", "phase one"), 10)
    assert {setting(another, name, "minAge") for name in [own, *others]} == {("2h", "phase one")}
    reload(another, {"phases": [], "defaults": {"policy": "force"}}, ": taken (all of it)")
    wait_for("the old default", lambda: all_say("force", "default"), 10)
    assert {setting(another, name, "minAge") for name in [own, *others]} == {("0s", "default")}

    # A namespace's label: at once, for all in it.
    stage.kube.patch("namespaces", None, FIRST[1], {"metadata": {"labels": {LABEL: None}}})
    wait_for("released", lambda: standing(another, workloads(FIRST[1])[0])[1] == "not-enrolled", 10)
    stage.kube.patch("namespaces", None, FIRST[1], {"metadata": {"labels": {LABEL: "one"}}})
    wait_for("enrolled", lambda: standing(another, workloads(FIRST[1])[0])[1] != "not-enrolled", 10)

    # Nothing of all that stands on the objects.
    assert [shown(stage, name) for name in [own, *others]] == before and written(stage) == []
    stage.kube.patch("deployments", FIRST[0], "app-0", {"metadata": {"annotations": {"keel.sh/policy": None}}})


def test_p3_what_an_ignored_manager_wrote_is_no_setting_and_what_people_wrote_is(stage, another):
    """As a mutate policy of Kyverno stamps it: `never` on a workload and on a namespace, both enrolled."""
    stamped, kept = workloads(FIRST[0])[:2]
    never, nothing = ({"metadata": {"annotations": {"keel.sh/policy": value}}} for value in ("never", None))

    def annotate(name, change, manager):
        stage.kube.patch("deployments", FIRST[0], name.rpartition("/")[2], change, manager=manager)

    annotate(stamped, never, "kyverno")
    annotate(kept, never, "kubectl-edit")
    stage.kube.patch("namespaces", None, FIRST[1], never, manager="kyverno-background")
    try:
        another.start().wait_ready()
        inside = workloads(FIRST[1])[0]
        assert {standing(another, name)[1] for name in (stamped, kept, inside)} == {"vetoed"}
        change = {"settings": {"ignoreManagers": ["kyverno", "kyverno-*"]}}
        answer = another.request("POST", "/v1/plan", other_file(another, change).read_text())[1]
        assert sorted(answer["enrolled"]) == sorted([stamped, *workloads(FIRST[1])])
        reload(another, change, ": taken (all of it)")
        wait_for("followed", lambda: standing(another, stamped)[1] != "vetoed", 10)
        assert standing(another, inside)[1] != "vetoed" and standing(another, kept)[1] == "vetoed"
        code, out, _ = another.ctl("why", stamped)
        assert "never of workload annotation (ignored: field manager kyverno)" in out, out
        assert written(stage) == []
    finally:
        for name in (stamped, kept):
            annotate(name, nothing, "lab")
        stage.kube.patch("namespaces", None, FIRST[1], nothing)


def test_a_digest_is_rolled_when_it_is_old_enough_and_not_before(stage, another):
    """The clock is the test's; keeld is restarted while the digest ages."""
    clock = Clock(another.folder / "clock")
    another.arguments = ["--clock", f"unix:{clock.path}"]
    another.write({"defaults": {"minAge": "24h", "pollSchedule": "@every 1h"}, "cap": {"workloads": 0}})
    name = "Deployment/plan-age/app"
    stage.kube.namespace("plan-age", labels={LABEL: "one"})
    stage.move("plan/aging")
    stage.kube.create(deployment("plan-age", "app", stage.image("plan/aging:latest")))
    stage.kube.wait_rolled_out("plan-age", "app")

    def say(condition, what):
        def met():
            status, answer = another.request("GET", f"/v1/workloads/{name}")
            return answer if status == 200 and condition(answer) else None

        return wait_for(what, met, 30)

    def start():
        another.start()
        clock.accept()
        another.wait_ready()

    try:
        start()
        say(lambda answer: answer["verdict"] == "current", "it is current")
        digest = stage.move("plan/aging")
        clock.tell(clock.now + datetime.timedelta(hours=2))  # it is looked up
        young = say(lambda answer: answer["reason"] == "too-young", "it is too young")
        old_enough = clock.now + datetime.timedelta(hours=24)
        assert f"{old_enough:%Y-%m-%dT%H:%M}" in young["next"], (young["next"], old_enough)
        clock.tell(old_enough - datetime.timedelta(minutes=1))
        assert another.get(f"/v1/workloads/{name}")["reason"] == "too-young"
        another.stop()
        start()
        say(lambda answer: answer["reason"] == "too-young", "it is still too young")
        assert stage.patches("plan-age", "app") == []
        clock.tell(old_enough + datetime.timedelta(seconds=1))
        stage.wait_current("plan-age", "app", digest, keeld=another)
        assert len(stage.patches("plan-age", "app")) == 1
    finally:
        another.stop()
        clock.close()
