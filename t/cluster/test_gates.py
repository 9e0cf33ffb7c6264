"""Pauses, windows and groups on a real API server: nothing is written before they let it, by the audit log."""

import datetime

from lab.wait import wait_for
from lab.workloads import deployment
from scene import (
    mark, move, name_of, own_ledger, patches, reload, rollouts, settings, time_of, wait_ended, wait_reason,
    wait_rolled_out, wait_why, why, writes,
)  # fmt: skip

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
