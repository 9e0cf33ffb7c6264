"""Pauses, windows, groups and the breaker on a real API server: nothing is written before they let it, by the audit log."""

import datetime

from lab.cut import DRY_RUN, PASS
from lab.wait import wait_for
from lab.workloads import deployment
from scene import (
    entries, mark, move, name_of, own_ledger, patches, reached, reload, rollouts, settings, time_of, wait_ended, wait_newest,
    wait_reason, wait_rolled_out, wait_why, writes,
)  # fmt: skip
from test_preflight import MESSAGE, refused

UNLIMITED = {"pacing": {"cluster": "unlimited", "namespace": "unlimited", "concurrent": "unlimited"}}


def two(lab, namespace, repository):
    lab.push(repository, "latest", "one")
    items = [deployment(namespace, name, lab.image(f"{repository}:latest")) for name in ("api", "web")]
    for item in items:
        lab.kube.create(item)
    wait_rolled_out(lab, *map(name_of, items))
    return list(map(name_of, items))


def wait_gate(lab, name, gate):
    return wait_why(lab, name, f"waits for {gate}", lambda answer: gate in {one["gate"] for one in answer["gates"]})


def planned(lab):
    return {item["workload"]: item for item in lab.keeld.ctl_json("plan")["items"]}


def test_r6_r8_a_pause_and_a_window_hold_over_downtime_and_are_visible(lab, namespace):
    names = two(lab, namespace, "gates/app")
    with settings(lab, own_ledger(lab, "gates") | UNLIMITED) as since:
        for name in names:
            wait_reason(lab, name, "up-to-date")
        code, out, err = lab.keeld.ctl("pause", f"namespace/{namespace}", "--reason", "upgrade of a node")
        assert code == 0, (out, err)
        assert lab.keeld.ctl("pause", f"namespace/{namespace}")[0] == 1
        pushed = move(lab, {"gates/app": "two"})["gates/app"]
        for name in names:
            (gate,) = wait_gate(lab, name, "paused")["gates"]
            assert "upgrade of a node" in gate["text"] and gate["until"] is None
        wait_for("both in the plan", lambda: set(names) <= planned(lab).keys())
        assert [planned(lab)[name]["earliest"] for name in names] == [None, None]

        lab.keeld.stop()
        lab.keeld.start().wait_ready()
        for name in names:
            wait_gate(lab, name, "paused")
        assert [pause["on"] for pause in lab.keeld.get("/v1/status")["pauses"]] == [f"namespace/{namespace}"]

        now = datetime.datetime.now(datetime.timezone.utc)
        later = [(now + datetime.timedelta(hours=h)).strftime("%H:%M") for h in (3, 4)]
        window = {"name": "later", "from": later[0], "to": later[1], "zone": "UTC", "namespaces": [namespace]}
        reload(lab, {"windows": [window]})
        assert lab.keeld.ctl("resume", f"namespace/{namespace}")[0] == 0
        for name in names:
            gates = wait_why(lab, name, "waits for its window alone",
                             lambda answer: [one["gate"] for one in answer["gates"]] == ["awaiting-window"])["gates"]
            assert time_of(gates[0]["until"]).strftime("%H:%M") == later[0]
            assert planned(lab)[name]["earliest"] == gates[0]["until"]
        assert not writes(lab, since)

        reload(lab, {"windows": []})
        for name in names:
            wait_ended(lab, name, pushed.digest)
        assert [patches(lab, name, since) for name in names] == [[200], [200]]


def test_r7_a_group_larger_than_pacing_waits_whole_and_goes_whole(lab, namespace):
    names = two(lab, namespace, "gates/group")
    change = {"pacing": {"cluster": "1/h", "namespace": "unlimited", "concurrent": "unlimited"},
              "groups": [{"name": "pair", "workloads": [f"*/{namespace}/*"]}]}  # fmt: skip
    with settings(lab, own_ledger(lab, "group") | change) as since:
        for name in names:
            wait_reason(lab, name, "up-to-date")
        pushed = move(lab, {"gates/group": "two"})["gates/group"]
        for name in names:
            wait_gate(lab, name, "group-exceeds-pacing")
        lab.keeld.restart()
        for name in names:
            wait_gate(lab, name, "group-exceeds-pacing")
        assert not writes(lab, since)
        assert "group-exceeds-pacing" in {problem["code"] for problem in lab.keeld.get("/v1/status")["problems"]}
        code, out, err = lab.keeld.ctl("approve", "group/pair")
        assert code == 0, (out, err)
        for name in names:
            wait_ended(lab, name, pushed.digest)
        assert [patches(lab, name, since) for name in names] == [[200], [200]]
        assert len({rollouts(lab, name)[0]["intended"] for name in names}) == 1


def problems(lab):
    return {one["code"]: one["text"] for one in lab.keeld.get("/v1/status")["problems"]}


def told_by_status(lab, code):
    """keelctl status tells of the problem, and that something needs attention."""
    status, out, _ = lab.keeld.ctl("status")
    return status == 1 and code in out


def parted(lab, workload):
    items = lab.keeld.get(f"/v1/rollouts?workload={workload}")["items"]
    return next((item for item in items if item["reason"] == "group-parted"), None)


def pair(stage, namespace):
    """Two Deployments of one tag, a group, and the settings that say so."""
    names = [f"Deployment/{namespace}/{name}" for name in ("api", "web")]
    for name in ("api", "web"):
        stage.deploy(namespace, name, f"{namespace}/app")
    return names, own_ledger(stage, namespace) | {"groups": [{"name": "pair", "workloads": [f"*/{namespace}/*"]}]}


def test_r7_a_member_that_is_refused_after_another_was_written_is_told_and_nothing_else_moves(stage):
    """Admission lets a dry run pass and refuses the write: a group is parted, over a restart, until the member follows."""
    ns = "parted"
    (api, web), change = pair(stage, ns)
    with settings(stage, change):
        with refused(stage, ns, "web", dry_runs=False):
            for name in (api, web):
                wait_reason(stage, name, "up-to-date")
            since = mark(stage)

            def api_first(request):
                if request.method == "PATCH" and f"/{ns}/deployments/web" in request.path:
                    wait_for("api is written", lambda: patches(stage, api, since))
                return PASS

            stage.proxy.rule = api_first
            two = stage.move(f"{ns}/app")
            wait_ended(stage, api, two)
            failed = wait_for("web is told", lambda: parted(stage, web), 10)
            assert two in reached(failed) and failed["state"] == "failed" and f"{api} was written" in failed["text"]
            assert MESSAGE in failed["text"]
            stage.proxy.rule = lambda request: PASS
            assert web in problems(stage)["group-parted"]
            assert told_by_status(stage, "group-parted")
            stage.keeld.restart()
            assert web in problems(stage)["group-parted"]
            wait_for("web was refused again", lambda: len(patches(stage, web, since)) > 1)

            three = stage.move(f"{ns}/app")
            for name in (api, web):
                wait_newest(stage, name, three)
            wait_gate(stage, api, "awaiting-group")
            (gate,) = wait_gate(stage, web, "awaiting-pacing")["gates"]
            assert "its group is parted" in gate["text"]
            assert patches(stage, api, since) == [200] and 200 not in patches(stage, web, since)

            tries = len(patches(stage, web, since))
            stage.keeld.restart()  # forgets how long to wait: both are tried, and web goes first
            wait_for("web was refused for three, too", lambda: len(patches(stage, web, since)) > tries)
            wait_gate(stage, api, "awaiting-group")
            wait_for("it is told of three", lambda: three in reached(parted(stage, web)), 10)
            assert web in problems(stage)["group-parted"]
            assert patches(stage, api, since) == [200]
        stage.keeld.restart()
        for name in (api, web):
            wait_ended(stage, name, three)
        assert "group-parted" not in problems(stage)


def test_r7_a_member_that_is_gone_when_the_group_is_tried_is_not_waited_for(stage):
    """It is deleted under the dry run that every member has to pass; the other one goes, and no group is parted."""
    ns = "gone"
    (api, web), change = pair(stage, ns)
    with settings(stage, change) as since:
        for name in (api, web):
            wait_reason(stage, name, "up-to-date")

        def delete_web(request):
            if request.method == DRY_RUN and f"/{ns}/deployments/web" in request.path:
                stage.kube.delete("deployments", ns, "web")
                wait_for("web is gone", lambda: not stage.kube.get("deployments", ns, "web"))
            return PASS

        stage.proxy.rule = delete_web
        two = stage.move(f"{ns}/app")
        wait_ended(stage, api, two)
        assert patches(stage, api, since) == [200] and patches(stage, web, since) == []
        assert rollouts(stage, web) == [] and "group-parted" not in problems(stage)


def test_r5_contents_that_fail_open_the_breaker_until_a_person_closes_it(stage):
    """Three builds that do not run, each in a workload of its own: nothing else starts, over a restart of keeld too."""
    ns = "breaker"
    bad, kept = [f"Deployment/{ns}/{name}" for name in ("one", "two", "three")], f"Deployment/{ns}/kept"
    for name in [*bad, kept]:
        stage.deploy(ns, name.rpartition("/")[2], f"{ns}/{name.rpartition('/')[2]}")
    with settings(stage, own_ledger(stage, ns) | {"defaults": {"deadline": "3s"}}) as since:
        for name in [*bad, kept]:
            wait_reason(stage, name, "up-to-date")
        stage.told.crashing = {(ns, name.rpartition("/")[2]) for name in bad}
        for count, name in enumerate(bad):
            assert stage.keeld.get("/v1/status")["breaker"]["failures"] == count and not told_by_status(stage, "breaker-open")
            failed = wait_ended(stage, name, stage.move(f"{ns}/{name.rpartition('/')[2]}"), "failed")
            assert failed["reason"] == "content" and "CrashLoopBackOff" in failed["text"]
        wait_for("keelctl status says so", lambda: told_by_status(stage, "breaker-open"), 10)
        assert all(name in problems(stage)["breaker-open"] for name in bad)

        opened = mark(stage)
        target = stage.move(f"{ns}/kept")
        (gate,) = wait_gate(stage, kept, "breaker-open")["gates"]
        assert gate["until"] is None and "keelctl resume cluster" in gate["text"]
        stage.keeld.restart()
        wait_gate(stage, kept, "breaker-open")
        wait_for("it is in the plan", lambda: kept in planned(stage))
        assert planned(stage)[kept]["earliest"] is None and writes(stage, opened) == []

        code, out, err = stage.keeld.ctl("resume", "cluster", "--reason", "the builds are known to be bad")
        assert code == 0, (out, err)
        wait_ended(stage, kept, target)
        assert [patches(stage, name, since) for name in [*bad, kept]] == [[200]] * 4
        breaker = stage.keeld.get("/v1/status")["breaker"]
        assert not breaker["open"] and breaker["failures"] == 0 and "breaker-open" not in problems(stage)
        assert [one["code"] for one in entries(stage, kind="planned")] == ["breaker-open"]
        assert [one["text"] for one in entries(stage, kind="ordered")] == ["cluster: the builds are known to be bad"]
