"""From a moved tag to proven pods, and what must not happen on the way. The API server's audit log is a witness."""

import copy
import threading
import time
import types

import pytest

from lab.lab import REGISTRY
from lab.wait import wait_for
from lab.workloads import cronjob, daemonset, deployment, statefulset
from scene import (
    ENROLLED, MARKER, empty, entries, fetch, mark, metric, move, name_of, own_ledger, owned, patches, reached, reload,
    requests, rollouts, running, settings, time_of, wait_ended, wait_newest, wait_reason, wait_rolled_out, wait_why, why,
    writes,
)  # fmt: skip

SPELLINGS = {
    "short": "app",
    "tagged": "app:latest",
    "host": "docker.io/app",
    "library": "docker.io/library/app:latest",
    "index": "index.docker.io/library/app",
    "other": f"{REGISTRY}/team/app",
    "port": f"{REGISTRY}:5000/team/app:latest",
}
# Controllers write these themselves when a template changes.
DERIVED = ["deployment.kubernetes.io/revision", "deprecated.daemonset.template.generation"]


def template(spec):
    return spec["jobTemplate"]["spec"]["template"] if "jobTemplate" in spec else spec["template"]


def by_hand(item):
    """Everything of a workload that people write, without the restart marker."""
    meta = item["metadata"]
    kept = {key: value for key, value in meta.get("annotations", {}).items() if key not in DERIVED}
    spec = copy.deepcopy(item["spec"])
    pod = template(spec)["metadata"]
    pod["annotations"] = {key: value for key, value in (pod.get("annotations") or {}).items() if key != MARKER}
    return {"labels": meta.get("labels"), "annotations": kept, "finalizers": meta.get("finalizers"), "spec": spec}


def marker(item):
    return (item["spec"]["template"]["metadata"].get("annotations") or {}).get(MARKER)


def index_of(lab):
    """The platform of the node, and another one."""
    info = lab.kube.get("nodes", None, "node-1")["status"]["nodeInfo"]
    own = (info["operatingSystem"], info["architecture"])
    return own, ("linux", "arm64" if own[1] != "arm64" else "amd64")


# --- one wave: every kind of workload, one move ---------------------------------------------------------------


@pytest.fixture(scope="module")
def wave(lab):
    """Workloads of all kinds before and after their tags moved."""
    ns = "wave"
    lab.kube.namespace(ns, labels=ENROLLED)
    repositories = ["library/app", "team/app", "team/init"]
    one = {name: lab.push(name, "latest", "one") for name in repositories}
    steady = lab.push("team/steady", "1", "steady")
    app, init = lab.image("team/app:latest"), lab.image("team/init:latest")
    spelled = deployment(ns, "spelled", "", annotations={"somebody": "else's"}, labels={"team": "x"},
                         containers=SPELLINGS, init={"first": init})  # fmt: skip
    spelled["spec"]["template"]["metadata"]["annotations"] = {"note": "kept"}
    rolling = [
        spelled,
        deployment(ns, "pair", app, 2),
        statefulset(ns, "set", app, annotations={"keel.sh/stateful": "allow"}),
        daemonset(ns, "every", app),
        deployment(ns, "init-moves", lab.image("team/steady:1"), init={"first": init}),
    ]
    standing = {
        "kept": (deployment(ns, "kept", app, pull="IfNotPresent"), "restart-cannot-pull"),
        "zero": (deployment(ns, "zero", app, 0), "scaled-to-zero"),
        "nightly": (cronjob(ns, "nightly", app), "at-next-run"),
        "hourly": (cronjob(ns, "hourly", app, pull="IfNotPresent"), "restart-cannot-pull"),
        "still": (deployment(ns, "still", lab.image("team/steady:1")), "up-to-date"),
    }
    for item in [*rolling, *(item for item, _ in standing.values())]:
        lab.kube.create(item)
    names = [name_of(item) for item in rolling]
    wait_rolled_out(lab, *names, *[name_of(standing[name][0]) for name in ("kept", "still")])
    for name in [*names, f"Deployment/{ns}/kept"]:
        wait_reason(lab, name, "up-to-date")
    before = {name: fetch(lab, name) for name in names}
    still = {name: fetch(lab, name_of(item)) for name, (item, _) in standing.items()}
    since = mark(lab)
    two = move(lab, dict.fromkeys(repositories, "two"))
    for name in names:
        digest = two["team/init" if "init" in name else "team/app"].digest
        wait_ended(lab, name, digest)
    wait_rolled_out(lab, *names)
    yield types.SimpleNamespace(
        ns=ns, one=one, two=two, steady=steady, names=names, before=before, standing=standing, still=still, since=since
    )
    empty(lab, ns)
    lab.kube.delete("namespaces", None, ns)


def test_v1_references_stay_byte_identical(lab, wave):
    """However they are spelled, and nothing beside the marker changes."""
    for name in wave.names:
        now = fetch(lab, name)
        assert by_hand(now) == by_hand(wave.before[name]), name
        assert marker(now) and not marker(wave.before[name])
    spec = fetch(lab, f"Deployment/{wave.ns}/spelled")["spec"]["template"]["spec"]
    assert {item["name"]: item["image"] for item in spec["containers"]} == SPELLINGS
    answer = why(lab, f"Deployment/{wave.ns}/spelled")
    assert {item["name"]: item["reference"] for item in answer["containers"] if not item["init"]} == SPELLINGS


def test_p5_keeld_owns_one_field(lab, wave):
    for name in wave.names:
        assert owned(fetch(lab, name)) == [("f:spec", "f:template", "f:metadata", "f:annotations", f"f:{MARKER}")], name


def test_o6_one_narrow_patch_for_each(lab, wave):
    for name in wave.names:
        assert patches(lab, name, wave.since) == [200], name
    assert {entry["verb"] for entry in writes(lab, wave.since)} == {"patch"}


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet"])
def test_r1_every_new_pod_runs_the_content(lab, wave, kind):
    name = {"Deployment": "pair", "StatefulSet": "set", "DaemonSet": "every"}[kind]
    found = running(lab, f"{kind}/{wave.ns}/{name}")
    assert len(found) == (2 if name == "pair" else 1)
    two = wave.two["team/app"]
    assert {(item["digest"], item["config"]) for item in found} == {(two.digest, two.config)}
    assert {lab.content(item) for item in found} == {"two"}


def test_r1_containers_with_equal_references_move_together(lab, wave):
    found = running(lab, f"Deployment/{wave.ns}/spelled")
    wanted = {
        name: wave.two["team/app" if name in ("other", "port") else "library/app"].digest for name in SPELLINGS
    }
    assert {item["container"]: item["digest"] for item in found} == wanted
    (rollout,) = rollouts(lab, f"Deployment/{wave.ns}/spelled")
    moved = {target["container"]: target["to"] for target in rollout["targets"]}
    assert moved == wanted | {"first": wave.two["team/init"].digest}


def test_r1_init_containers_are_tracked(lab, wave):
    """Only its init container's tag moved; the container beside it was started again with what it had."""
    name = f"Deployment/{wave.ns}/init-moves"
    (rollout,) = rollouts(lab, name)
    assert [(target["container"], target["to"]) for target in rollout["targets"]] == [
        ("first", wave.two["team/init"].digest)
    ]
    (pod,) = lab.kube.pods(wave.ns, "init-moves")
    assert pod["status"]["initContainerStatuses"][0]["imageID"].endswith(wave.two["team/init"].digest)
    assert [item["digest"] for item in running(lab, name)] == [wave.steady.digest]


@pytest.mark.parametrize("name", ["kept", "zero", "nightly", "hourly", "still"])
def test_r1_untouched_where_a_restart_is_no_help(lab, wave, name):
    """IfNotPresent pulls nothing, nothing runs at zero replicas, a CronJob pulls at its next run."""
    item, reason = wave.standing[name]
    answer = wait_reason(lab, name_of(item), reason)
    assert answer["rollout"] is None and rollouts(lab, name_of(item)) == []
    now = fetch(lab, name_of(item))
    assert now["metadata"]["generation"] == wave.still[name]["metadata"]["generation"]
    assert by_hand(now) == by_hand(wave.still[name]) and not patches(lab, name_of(item))
    if name != "still":
        assert answer["containers"][0]["newest"]["digest"] == wave.two["team/app"].digest


# --- what runs is what counts -----------------------------------------------------------------------------------


def test_r1_same_content_on_the_node_is_no_reason_to_restart(lab, namespace):
    """An index that moves by another architecture or an attestation alone; then one that moves by the node's own."""
    own, other = index_of(lab)
    first = lab.push("same/app", "build-1", "one")
    foreign = [lab.upstream.put_variant("same/app", first.digest, number, platform=other) for number in range(2)]
    paper = lab.upstream.put_variant("same/app", first.digest, "attestation", platform=("unknown", "unknown"))
    index = lab.upstream.put_index("same/app", "latest", [(*own, first.digest), (*other, foreign[0])])
    lab.kube.create(deployment(namespace, "app", lab.image("same/app:latest"), 2))
    name = f"Deployment/{namespace}/app"
    wait_rolled_out(lab, name)
    wait_reason(lab, name, "up-to-date")
    for images in (
        [(*own, first.digest), (*other, foreign[1])],
        [(*own, first.digest), (*other, foreign[1]), ("unknown", "unknown", paper)],
    ):
        index = lab.upstream.put_index("same/app", "latest", images)
        wait_newest(lab, name, index)
        answer = wait_reason(lab, name, "same-content")
        assert answer["verdict"] == "current"
    assert rollouts(lab, name) == [] and patches(lab, name) == []
    second = lab.push("same/app", "build-2", "two")
    index = lab.upstream.put_index("same/app", "latest", [(*own, second.digest), (*other, foreign[1])])
    wait_ended(lab, name, index)
    wait_rolled_out(lab, name)
    assert {(item["digest"], item["config"]) for item in running(lab, name)} == {(index, second.config)}
    assert patches(lab, name) == [200]


def test_r1_a_bad_build_is_not_tried_again(lab, namespace):
    """It exits at once: failed within the workload's own deadline, rejected over a restart; the next good one rolls."""
    first = lab.push("bad/app", "latest", "one")
    spec = {"progressDeadlineSeconds": 6}
    lab.kube.create(deployment(namespace, "app", lab.image("bad/app:latest"), spec=spec, probe=True))
    name = f"Deployment/{namespace}/app"
    wait_rolled_out(lab, name)
    wait_reason(lab, name, "up-to-date")
    bad = lab.push("bad/app", "latest", "bad", entrypoint=["/bin/false"])
    failed = wait_ended(lab, name, bad.digest, "failed")
    assert failed["reason"] == "content" and "is not well" in failed["text"]
    answer = wait_reason(lab, name, "target-rejected")
    assert answer["verdict"] == "blocked" and answer["gates"] == []
    assert first.digest in [item["digest"] for item in running(lab, name)], "the pod that was there still serves"
    lab.keeld.restart()
    wait_reason(lab, name, "target-rejected")
    assert lab.keeld.ctl("retry", name, "--dry-run")[0] == 0
    good = lab.push("bad/app", "latest", "good")
    wait_ended(lab, name, good.digest)
    assert [(item["state"], reached(item)) for item in rollouts(lab, name)] == [
        ("done", [good.digest]),
        ("failed", [bad.digest]),
    ]
    assert patches(lab, name) == [200, 200]
    wait_rolled_out(lab, name)
    assert [item["digest"] for item in running(lab, name)] == [good.digest]
    code, out, _ = lab.keeld.ctl("retry", name)
    assert code == 1 and "nothing-failed" in out


def test_r3_what_crashes_after_its_proof_fails_in_its_soak(lab, namespace):
    """It is well for some seconds, which proves it, and then ends again and again."""
    lab.push("late/app", "latest", "one")
    lab.kube.create(deployment(namespace, "app", lab.image("late/app:latest")))
    name = f"Deployment/{namespace}/app"
    wait_rolled_out(lab, name)
    with settings(lab, {**own_ledger(lab, "soak"), "defaults": {"soak": "2m"}}) as since:  # the breaker counts failures
        wait_reason(lab, name, "up-to-date")
        bad = lab.push("late/app", "latest", "two", entrypoint=["/bin/sh", "-c", "sleep 8; exit 1"])
        soaking = wait_why(lab, name, "soaks", lambda answer: (answer["rollout"] or {}).get("state") == "soaking")
        assert soaking["rollout"]["reason"] == "proven"
        lab.keeld.kill()
        lab.keeld.start().wait_ready()
        failed = wait_ended(lab, name, bad.digest, "failed")
        assert failed["reason"] == "content" and "soak" in failed["text"]
        wait_reason(lab, name, "target-rejected")
        assert patches(lab, name, since) == [200]


def test_r4_a_full_cluster_is_no_fault_of_the_content(lab, namespace):
    """No node takes the new pod until the deadline: told, not rejected, not written again; it arrives when one does."""
    lab.push("full/app", "latest", "one")
    lab.kube.create(deployment(namespace, "app", lab.image("full/app:latest"), annotations={"keel.sh/draining": "allow"}))
    name = f"Deployment/{namespace}/app"
    wait_rolled_out(lab, name)
    wait_reason(lab, name, "up-to-date")
    with settings(lab, {"defaults": {"deadline": "4s"}}):
        lab.kube.patch("nodes", None, "node-1", {"spec": {"unschedulable": True}})
        try:
            two = lab.push("full/app", "latest", "two")
            failed = wait_ended(lab, name, two.digest, "failed")
            assert failed["reason"] == "stalled" and "not a fault of the content" in failed["text"]
            assert wait_reason(lab, name, "rollout-stalled")["verdict"] == "blocked"
        finally:
            lab.kube.patch("nodes", None, "node-1", {"spec": {"unschedulable": None}})
        wait_reason(lab, name, "up-to-date")
        assert patches(lab, name) == [200]
        wait_rolled_out(lab, name)
        assert [item["digest"] for item in running(lab, name)] == [two.digest]


def test_r1_a_move_during_a_rollout_supersedes_it(lab, namespace):
    """The last one wins, and each target is written at most once."""
    lab.push("quick/app", "latest", "one")
    lab.kube.create(deployment(namespace, "app", lab.image("quick/app:latest"), spec={"minReadySeconds": 6}))
    name = f"Deployment/{namespace}/app"
    wait_rolled_out(lab, name)
    wait_reason(lab, name, "up-to-date")
    two = lab.push("quick/app", "latest", "two")
    wait_for("a rollout under way", lambda: patches(lab, name) == [200])
    three = lab.push("quick/app", "latest", "three")
    wait_ended(lab, name, three.digest)
    assert [(item["state"], item["reason"], reached(item)) for item in rollouts(lab, name)] == [
        ("done", "proven", [three.digest]),
        ("superseded", "tag-moved", [two.digest]),
    ]
    assert patches(lab, name) == [200, 200]
    wait_rolled_out(lab, name)
    assert [item["digest"] for item in running(lab, name)] == [three.digest]


# --- other writers ------------------------------------------------------------------------------------------------


class Writer(threading.Thread):
    """Somebody else who writes to a Deployment as fast as the API server takes it, until keeld's patch has an answer.

    The last write is `last`. conflict: whether the answer was 409.
    """

    def __init__(self, lab, namespace, last):
        super().__init__(daemon=True)
        self.lab, self.namespace, self.last = lab, namespace, last
        self.client = lab.kube.another()
        self.before = self.answers()
        self.written, self.conflict = 0, False
        self.start()

    def answers(self):
        names = ("keeld_patch_conflicts_total", "keeld_rollouts_applied_total")
        return [metric(self.lab, name) for name in names]

    def write(self, annotations):
        self.written += 1
        body = {"metadata": {"annotations": {"somebody": str(self.written), **annotations}}, "spec": {"replicas": 2}}
        self.client.patch("deployments", self.namespace, "app", body, manager="somebody")

    def run(self):
        end = time.monotonic() + 60
        while (now := self.answers()) == self.before and time.monotonic() < end:
            self.write({})
        self.write(self.last)
        self.conflict = now[0] > self.before[0]
        self.client.close()


def test_o6_a_foreign_write_in_between_is_kept(lab, namespace):
    """keeld's patch meets a newer object: 409, and the verdict is made again from that one."""
    lab.push("busy/app", "latest", "0")
    lab.kube.create(deployment(namespace, "app", lab.image("busy/app:latest")))
    name = f"Deployment/{namespace}/app"
    wait_rolled_out(lab, name)
    wait_reason(lab, name, "up-to-date")
    for attempt in range(1, 11):
        writer = Writer(lab, namespace, {"last": "word"})
        pushed = lab.push("busy/app", "latest", str(attempt))
        writer.join()
        wait_ended(lab, name, pushed.digest)
        now = fetch(lab, name)
        assert now["metadata"]["annotations"]["somebody"] == str(writer.written)
        assert now["metadata"]["annotations"]["last"] == "word" and now["spec"]["replicas"] == 2
        assert patches(lab, name).count(200) == attempt, "each target is written once"
        if writer.conflict:
            break
    assert 409 in patches(lab, name), "keeld's patch was never met by another write"
    wait_rolled_out(lab, name)
    assert [item["digest"] for item in running(lab, name)] == [pushed.digest] * 2


def test_o6_a_conflict_makes_the_verdict_again(lab, namespace):
    """The write that keeld met was a veto: then nothing is written any more."""
    lab.push("vetoed/app", "latest", "0")
    name = f"Deployment/{namespace}/app"
    for attempt in range(1, 11):
        lab.kube.create(deployment(namespace, "app", lab.image("vetoed/app:latest")))
        wait_rolled_out(lab, name)
        wait_reason(lab, name, "up-to-date")
        since = mark(lab)
        writer = Writer(lab, namespace, {"keel.sh/policy": "never"})
        pushed = lab.push("vetoed/app", "latest", str(attempt))
        writer.join()
        wait_reason(lab, name, "vetoed")
        wait_for("the end of its rollout", lambda: rollouts(lab, name)[0]["ended"])
        if 200 not in patches(lab, name, since):
            break
        empty(lab, namespace)  # its patch came before the veto
    assert set(patches(lab, name, since)) == {409}, "no veto came between keeld's verdict and its patch"
    ended = wait_ended(lab, name, pushed.digest, "superseded")
    assert ended["reason"] == "not-due" and not ended["applied"]
    assert marker(fetch(lab, name)) is None


# --- the log, and downtime ----------------------------------------------------------------------------------------


def test_d7_the_ledger_tells_the_whole_way(lab, namespace):
    """Heard of from a pull, as keeld itself does not look for an hour."""
    one = lab.push("told/app", "latest", "one")
    lab.kube.create(deployment(namespace, "app", lab.image("told/app:latest")))
    name, tag = f"Deployment/{namespace}/app", f"{REGISTRY}/told/app:latest"
    wait_rolled_out(lab, name)
    wait_reason(lab, name, "up-to-date")
    with settings(lab, {"defaults": {"pollSchedule": "@every 1h"}}):
        wait_reason(lab, name, "up-to-date")
        two = lab.push("told/app", "latest", "two")
        assert lab.nginx.through(REGISTRY).digest("told/app", "latest", f"?ns={REGISTRY}") == two.digest
        rollout = wait_ended(lab, name, two.digest)
        lines = [item for item in entries(lab) if two.digest == item["to"] and item["tag"] == tag]
        # Before its patch keeld asks what a pull gets now; that is no news.
        kinds = ["observed", "received", "decided", "intended", "applied", "verified", "outcome"]
        assert [item["kind"] for item in lines] == kinds
        first = {item["kind"]: item for item in lines}
        times = [time_of(first[kind]["at"]) for kind in kinds]
        assert times == sorted(times)
        for kind in kinds:
            item = first[kind]
            assert item["from"] == (None if kind == "received" else one.digest), kind
            assert item["cause"] == "event cache-a", kind
            assert item["workload"] == (None if kind in ("observed", "received") else name), kind
            assert item["rollout"] == (rollout["id"] if kinds.index(kind) > kinds.index("decided") else None), kind
        assert [first[kind]["code"] for kind in kinds] == [
            "changed", "changed", "digest-moved", "restart", "restart", "proven", "done",
        ]  # fmt: skip
        assert marker(fetch(lab, name)) in first["intended"]["text"]
        code, out, _ = lab.keeld.ctl("history", name)
        assert code == 0 and [kind for kind in kinds[2:] if kind not in out] == []
        code, out, _ = lab.keeld.ctl("history", "--kind", "received")
        assert code == 0 and "told/app:latest" in out


def test_p7_one_rollout_after_downtime(lab, namespace):
    """The tag moved twice while keeld was down, and nobody was there to be told."""
    lab.push("down/app", "latest", "one")
    lab.kube.create(deployment(namespace, "app", lab.image("down/app:latest")))
    name = f"Deployment/{namespace}/app"
    wait_rolled_out(lab, name)
    wait_reason(lab, name, "up-to-date")
    lab.keeld.stop()
    for version in ("two", "three"):
        last = lab.push("down/app", "latest", version)
        assert lab.nginx.through(REGISTRY).digest("down/app", "latest", f"?ns={REGISTRY}") == last.digest
    lab.keeld.start().wait_ready()
    wait_ended(lab, name, last.digest)
    assert [reached(item) for item in rollouts(lab, name)] == [[last.digest]]
    assert patches(lab, name) == [200]
    wait_rolled_out(lab, name)
    assert [item["digest"] for item in running(lab, name)] == [last.digest]


def test_p7_a_cache_that_forgot_is_heard_too(lab, namespace):
    """nginx lost its table and the tag moved, all while keeld was down; what nginx tells then is from another epoch,
    and keeld itself would not look for an hour.
    """
    lab.push("forgot/app", "latest", "one")
    lab.kube.create(deployment(namespace, "app", lab.image("forgot/app:latest")))
    name = f"Deployment/{namespace}/app"
    wait_rolled_out(lab, name)
    wait_reason(lab, name, "up-to-date")
    lab.keeld.stop()
    lab.nginx.forget()
    two = lab.push("forgot/app", "latest", "two")
    assert lab.nginx.through(REGISTRY).digest("forgot/app", "latest", f"?ns={REGISTRY}") == two.digest
    with settings(lab, {"defaults": {"pollSchedule": "@every 1h"}}):
        wait_ended(lab, name, two.digest)
        assert patches(lab, name) == [200]


def test_p7_nothing_in_the_admission_path(lab):
    """keeld's absence cannot keep anything from starting: no webhook or policy is there, and it never asked for one."""
    group = "/apis/admissionregistration.k8s.io/v1"
    for kind in ("mutatingwebhookconfigurations", "validatingwebhookconfigurations", "validatingadmissionpolicies"):
        assert lab.kube.call("GET", f"{group}/{kind}")["items"] == []
    asked = {entry.get("objectRef", {}).get("apiGroup", "") for entry in requests(lab)}
    budgets = "policy"  # which preflight reads
    assert asked - {budgets} == {"", "apps", "batch", "authorization.k8s.io", "coordination.k8s.io"}


def test_v2_a_first_sight_without_history_is_unconfirmed(lab, namespace):
    """Neither keeld nor the cache saw the tag before: what runs may be the newer one. A second source settles it."""
    lab.keeld.stop()
    one = lab.push("first/app", "latest", "one")
    lab.kube.create(deployment(namespace, "app", lab.image("first/app:latest")))
    name = f"Deployment/{namespace}/app"
    wait_rolled_out(lab, name)
    lab.nginx.forget()
    two = lab.push("first/app", "latest", "two")
    with settings(lab, {"registries": {REGISTRY: {"upstream": None}}}) as since:
        answer = wait_reason(lab, name, "revert-unconfirmed")
        assert answer["verdict"] == "blocked"
        assert "second source" in answer["sentence"] and answer["containers"][0]["newest"]["digest"] == two.digest
        asked = metric(lab, "keeld_lookups_total")
        wait_for("three more looks at it", lambda: metric(lab, "keeld_lookups_total") > asked + 2)
        assert why(lab, name)["reason"] == "revert-unconfirmed"
        assert rollouts(lab, name) == [] and writes(lab, since) == []
        assert [item["digest"] for item in running(lab, name)] == [one.digest]
        reload(lab, {"registries": {REGISTRY: {"upstream": lab.upstream.url}}})
        wait_ended(lab, name, two.digest)
        assert patches(lab, name) == [200]
