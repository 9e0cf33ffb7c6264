"""A real operator's plan (nine phases, a week of soak each, five rollouts an hour) over his own 335 workloads, with keeld
restarted and killed in between; the witness is the API server's audit log."""

import collections

import pytest

from lab.plan import DAY, HOUR, Plan
from lab.wait import wait_for

WAITS, CRASHES, MOVES_TOGETHER, ASKS, FAILS = "phase-2", "phase-3", "phase-4", "phase-5", "phase-8"
NIGHTS = {"name": "nights", "from": "22:00", "to": "06:00", "zone": "UTC", "namespaces": []}
WEEK = 7 * DAY


def change(name):
    return {ASKS: {"advance": "approval"}, WAITS: {"windows": ["nights"]}}.get(name, {})


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    with Plan(tmp_path_factory.mktemp("plan"), change) as running:
        yield running


def due(plan, moved):
    """Workloads that nothing but the plan keeps from being restarted for a tag that moved."""
    policies = {"", "patch", "minor", "major", "force"}
    for key, containers in plan.workloads.items():
        first = containers[0]
        moves = (first["repository"], first["tag"]) in moved and first["pull_policy_effective"] == "Always"
        alone = len(containers) == 1 and key[0] == "Deployment" and first["keel_policy"] in policies
        if moves and alone and key[1] in plan.phase_of and first["replicas"] not in ("0",):
            yield key, plan.versions[first["repository"], first["tag"]]


def pair_of(plan, moved):
    """Two workloads of one phase, in two namespaces, that are told to move together."""
    members = {ns: (ns, name) for (_, ns, name), _ in due(plan, moved) if plan.phase_of[ns] == MOVES_TOGETHER}
    pair = list(members.values())[:2]
    assert len(pair) == 2, members
    group = {"name": "pair", "workloads": [f"Deployment/{ns}/{name}" for ns, name in pair]}
    plan.keeld.write({"windows": [NIGHTS], "groups": [group]})
    return pair


def bad_ones(plan, moved):
    """Three workloads of one phase that do not run with what is new. They go first, so that others are still to come."""
    all_due = [key for key, _ in due(plan, moved) if plan.phase_of[key[1]] == FAILS]
    rolling = {key[1]: key for key in all_due if plan.workloads[key][0]["strategy"] != "Recreate"}
    three = list(rolling.values())[:3]
    assert len(three) == 3 and len(all_due) > 5, all_due
    plan.node.crashing = {key[1:] for key in three}
    first = {"workloads": ["/".join(key) for key in three], "value": 10}
    # One by one, so that the third fails before the next one starts.
    plan.keeld.write({"priorities": [first], "pacing": {"concurrent": 1}, "defaults": {"deadline": "10s"}})
    return three


def breaker(plan, name, bad):
    """It opens by their failures; hours and a restart later nothing has started; a person closes it. Both moments."""
    _, waiting = plan.settle(name)
    for _ in range(3):  # pacing lets them go one by one
        if not plan.keeld.get("/v1/status")["breaker"]["open"]:
            plan.pass_time(HOUR)
            _, waiting = plan.settle(name)
    assert plan.keeld.get("/v1/status")["breaker"]["open"], plan.keeld.get("/v1/status")["breaker"]
    opened, written = plan.clock.now, plan.writes()
    assert waiting, "somebody is still to come"
    for hour in range(3):
        plan.pass_time(HOUR)
        if hour == 1:
            plan.restart_keeld(kill=True)
        assert plan.settle(name)[1] == waiting
        assert {item["reason"] for item in plan.waiting()} == {"breaker-open"}
    code, out, _ = plan.keeld.ctl("status")
    assert code == 1 and "breaker-open" in out and all("/".join(key) in out for key in bad), out
    assert plan.writes() == written
    plan.node.crashing = set()
    for order in (["resume", "cluster"], *(["retry", "/".join(key)] for key in bad)):
        code, out, err = plan.keeld.ctl(*order, "--reason", "it was the database")
        assert code == 0, (out, err)
    return opened, plan.clock.now


def roll(plan, name, number):
    """Hours pass until everything that was due in the phase has rolled."""
    hours = 0
    while True:
        phase, waiting = plan.settle(name)
        if not waiting:
            return phase
        plan.pass_time(HOUR)
        hours += 1
        if hours == 2:
            plan.restart_keeld(kill=number % 2 == 1)


def untouched(plan, begun):
    """Everything outside of the phases that have begun is at its first generation."""
    own = {ns for name in begun for ns in plan.phases[name]}
    for key, generation in plan.generations().items():
        assert generation == plan.first[key] or key[1] in own, f"{key} is touched, and {begun} have begun"


def crash_loop(plan, name):
    """Two hours of it on the third day: the soak begins again."""
    done = [write for write in plan.writes() if write[2] == "deployments" and plan.phase_of.get(write[1]) == name]
    _, namespace, _, app, _ = done[0]
    plan.pass_time(2 * DAY)
    plan.settle(name)
    plan.crash(namespace, app, True)
    for _ in range(3):
        plan.pass_time(HOUR)
        plan.settle(name)
    phase = plan.phase(name)
    assert phase["stage"] == "rolling" and "crash loop" in phase["violation"], phase
    plan.crash(namespace, app, False)
    plan.pass_time(HOUR)
    phase, _ = plan.settle(name)
    phase = wait_for("it soaks again", lambda: (found := plan.phase(name))["stage"] == "soaking" and found, 10)
    assert phase["soaking"] >= phase["begun"] and phase["violations"] == 1
    return plan.clock.now


def test_r5_r6_r7_r8_p4_nine_phases_over_335_workloads(plan):
    assert len(plan.workloads) == 335 and len({key[1] for key in plan.workloads}) == 136 and len(plan.phases) == 9
    moved = sorted(tag for tag in plan.tags() if tag[1] == "latest")
    newer = {}
    for repository, tag in sorted(plan.tags()):
        parts = tag.split(".")
        if len(parts) == 3 and all(part.isdigit() for part in parts) and len(newer) < 25:
            newer[repository, tag] = (repository, ".".join([*parts[:2], str(int(parts[2]) + 1)]))
    plan.push("new", *moved, *newer.values())
    pair = pair_of(plan, moved)
    bad = bad_ones(plan, moved)
    plan.start_keeld()
    clean = {}  # by phase: since when it has been clean without a break
    for number, name in enumerate(plan.phases, 1):
        phase = wait_for(f"{name} begins", lambda: (found := plan.phase(name))["state"] == "active" and found, 60)
        untouched(plan, list(plan.phases)[: number - 1] + [name])
        if name == FAILS:
            closed = breaker(plan, name, bad)
        phase = roll(plan, name, number)
        if name == FAILS:  # its next look at the pods finds the crash loops ended
            plan.pass_time(HOUR)
            phase, _ = plan.settle(name)
        assert phase["stage"] == "soaking", phase
        clean[name] = plan.clock.now
        if name == CRASHES:
            clean[name] = crash_loop(plan, name)
        plan.pass_time(3 * DAY)
        if number in (2, 6):
            plan.restart_keeld()
        phase, _ = plan.settle(name)
        assert phase["stage"] == "soaking", repr(phase)
        plan.pass_time(clean[name] + WEEK - plan.clock.now - HOUR)
        phase, _ = plan.settle(name)
        assert phase["stage"] == "soaking", "an hour is missing"
        plan.pass_time(HOUR)
        if name == ASKS:
            wait_for("accepted", lambda: plan.phase(name)["stage"] == "accepted", 30)
            plan.pass_time(30 * DAY)
            plan.settle(name)
            assert plan.phase(name)["stage"] == "accepted"
            code, out, err = plan.keeld.ctl("phase", "advance", name, "--reason", "a month well")
            assert code == 0, (out, err)
        wait_for(f"{name} completed", lambda: plan.phase(name)["state"] == "completed", 30)
    plan.settle(name)
    witness(plan, clean, pair, bad, closed)
    proven(plan, moved)
    reported(plan)


def witness(plan, clean, pair, bad, closed):
    """What the audit log says about pacing, order, windows, groups, the breaker, and who was left alone."""
    writes = [write for write in plan.writes() if write[4] == 200]
    print(f"{len(writes)} rollouts, {plan.clock.now - plan.clock.told[0][1]} of the clock")
    assert len(writes) > 60
    moments = [write[0] for write in writes]
    for first, sixth in zip(moments, moments[5:]):
        assert sixth - first >= HOUR, f"six rollouts between {first} and {sixth}"
    by_namespace = collections.defaultdict(list)
    for moment, namespace, *_ in writes:
        by_namespace[namespace].append(moment)
    for namespace, times in by_namespace.items():
        for first, third in zip(times, times[2:]):
            assert third - first >= HOUR, f"three rollouts in {namespace} between {first} and {third}"
    assert set(by_namespace) <= set(plan.phase_of), "namespaces of no phase"
    names = list(plan.phases)
    first = {name: min([at for at, ns, *_ in writes if plan.phase_of[ns] == name], default=None) for name in names}
    for before, after in zip(names, names[1:]):
        if first[after]:
            assert first[after] - clean[before] >= WEEK, f"{after} began before {before} was accepted"
    touched = {(namespace, resource, name) for _, namespace, resource, name, _ in writes}
    for (kind, namespace, name), generation in plan.generations().items():
        if (namespace, kind.lower() + "s", name) not in touched:
            assert generation == plan.first[kind, namespace, name], f"{name} was written by nobody, and changed"
    by_night = [at for at, ns, *_ in writes if plan.phase_of[ns] == WAITS]
    assert by_night and all(at.hour >= 22 or at.hour < 6 for at in by_night), by_night
    together = [at for at, ns, _, name, _ in writes if (ns, name) in pair]
    assert len(together) == 2 and together[0] == together[1], together
    opened, resumed = closed
    assert not [write for write in writes if opened < write[0] < resumed], "the breaker was open"
    twice = {one for one, count in collections.Counter(write[1:4] for write in writes).items() if count > 1}
    assert twice == {(ns, "deployments", name) for _, ns, name in bad}, f"one target, written twice: {twice}"
    pods = plan.plane.api.requests("system:serviceaccount:keel:keeld", "list", "pods")
    print(f"{len(pods)} lists of pods")


def proven(plan, moved):
    """Who could be restarted runs the new image, by its pods."""
    wrong = []
    for (_, namespace, name), digest in due(plan, moved):
        pods = plan.kube.pods(namespace, name)
        ids = [status["imageID"] for pod in pods for status in pod["status"]["containerStatuses"]]
        if not ids or not all(one.endswith(digest) for one in ids):
            wrong.append((namespace, name, ids))
    assert not wrong, wrong


def reported(plan):
    """keelctl report, by what the audit log and the pods say."""
    report = plan.keeld.ctl_json("report")
    assert [section["name"] for section in report["phases"]] == list(plan.phases)
    whole = report["plan"]
    assert whole["newest"] + whole["on_the_way"] + whole["unknown"] + len(whole["pinned_out"]) + len(whole["apart"]) == whole["workloads"]
    assert whole["on_the_way"] == whole["unknown"] == 0 and whole["share"] == 1 and not whole["failed"]
    assert whole["rollouts"] == len([write for write in plan.writes() if write[4] == 200])
    assert 0 < whole["upstream_to_proven"]["count"] <= whole["rollouts"]
    code, out, err = plan.keeld.ctl("report", "--format", "markdown")
    assert code == 0 and out.count("\n| phase-") == 9, (out, err)
