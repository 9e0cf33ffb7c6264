"""Stamps on a real API server, and what Kyverno left (P5): what is ours goes, and nothing else."""

import signal

import pytest

from lab.keeld import merged
from lab.kubernetes import KEELD
from lab.wait import wait_for
from lab.workloads import deployment
from scene import fetch, mark, name_of, own_ledger, patches, reload, settings, wait_rolled_out, writes

POLICY, TRIGGER, SCHEDULE = "keel.sh/policy", "keel.sh/trigger", "keel.sh/pollSchedule"
STAMP = {POLICY: "force", TRIGGER: "poll", SCHEDULE: "@every 1h"}
DEFAULTS = {"defaults": {"policy": "force", "pollSchedule": "@every 1h"}}


def create(lab, namespace, name, annotations=None):
    lab.push(f"stamps/{name}", "latest", "one")  # of its own: the next one's push restarts nothing
    item = deployment(namespace, name, lab.image(f"stamps/{name}:latest"))
    item["metadata"].setdefault("annotations", {}).update(annotations or {})
    lab.kube.create(item)
    wait_rolled_out(lab, name_of(item))
    return name_of(item)


@pytest.fixture
def another(stage):
    """A keeld in mode act with a ledger and a Lease of its own, not started; the other one, which would take its stamps away,
    is stopped meanwhile."""
    stage.keeld.stop()
    base = {key: value for key, value in stage.keeld.config.items() if key == "kubernetes"}
    change = {"kubernetes": {"lease": {"name": "stamps"}}, "enrolment": {"label": "stamps.example/part=one"}}
    keeld = stage.another_keeld("stamps", merged(base, change | DEFAULTS | {"stamp": {"enabled": True}}))
    yield keeld
    keeld.stop()


def keel_keys(lab, name):
    annotations = fetch(lab, name)["metadata"].get("annotations", {})
    return {key: value for key, value in annotations.items() if key.startswith("keel.")}


def pods(lab, name):
    _, namespace, short = name.split("/")
    return {pod["metadata"]["uid"] for pod in lab.kube.pods(namespace, short)}


def wait_keys(lab, name, expected, deadline=20):
    wait_for(f"{name} carries {expected}", lambda: keel_keys(lab, name) == expected or None, deadline)


def problems(lab):
    return {problem["code"] for problem in lab.keeld.get("/v1/status")["problems"]}


def enroll(lab, namespace, value):
    lab.kube.patch("namespaces", None, namespace, {"metadata": {"labels": {"keel.sh/enrolled": value}}})


def annotate(lab, name, change, manager):
    _, namespace, short = name.split("/")
    lab.kube.patch("deployments", namespace, short, {"metadata": {"annotations": change}}, manager=manager)


def without_stamp(item):
    """The object as people wrote it."""
    kept = {"labels", "annotations", "name", "uid"}
    metadata = {key: value for key, value in item["metadata"].items() if key in kept}
    writers = {entry["manager"] for entry in item["metadata"]["managedFields"]}
    return metadata, item["spec"], "keeld-stamp" in writers


def test_p5_stamps_come_where_nobody_wrote_and_go_without_a_trace(lab, namespace):
    plain = create(lab, namespace, "plain")
    pinned = create(lab, namespace, "pinned", {POLICY: "patch"})
    vetoed = create(lab, namespace, "vetoed", {POLICY: "never"})
    before = {name: without_stamp(fetch(lab, name)) for name in (plain, pinned, vetoed)}
    templates = {name: fetch(lab, name)["spec"]["template"] for name in before}
    running = {name: pods(lab, name) for name in before}
    with settings(lab, own_ledger(lab, "stamps") | DEFAULTS | {"stamp": {"enabled": True}}) as since:
        wait_keys(lab, plain, STAMP)
        wait_keys(lab, pinned, STAMP | {POLICY: "patch"})
        assert keel_keys(lab, vetoed) == {POLICY: "never"}
        # Never read back: `why` names the default, and the stamp as what does not count.
        answer = lab.keeld.get(f"/v1/workloads/{plain}")
        policy = answer["containers"][0]["settings"]["policy"]
        assert (policy["value"], policy["layer"]) == ("force", "default"), policy
        assert {name: fetch(lab, name)["spec"]["template"] for name in before} == templates

        # A default that moves is stamped anew; over a restart nothing is written twice.
        reload(lab, {"defaults": {"policy": "minor", "pollSchedule": "@every 1h"}})
        wait_keys(lab, plain, STAMP | {POLICY: "minor"})
        lab.keeld.stop()
        restarted = mark(lab)
        lab.keeld.start().wait_ready()
        wait_for("nothing waits", lambda: lab.keeld.get("/v1/status")["stamp"]["waiting"] == 0)
        assert not writes(lab, restarted)

        # Who writes over a stamp keeps what they wrote.
        annotate(lab, plain, {TRIGGER: "push"}, "kubectl-edit")
        reload(lab, {"stamp": {"enabled": False}})
        wait_keys(lab, plain, {TRIGGER: "push"})
        wait_keys(lab, pinned, {POLICY: "patch"})
        wait_for("none is left", lambda: lab.keeld.get("/v1/status")["stamp"]["stamped"] == 0)
        annotate(lab, plain, {TRIGGER: None}, "kubectl-edit")
        assert {name: without_stamp(fetch(lab, name)) for name in before} == before
        assert not patches(lab, vetoed, since)
        assert {name: pods(lab, name) for name in before} == running


def test_p5_a_namespace_that_is_released_loses_its_stamps(lab, namespace):
    name = create(lab, namespace, "app")
    with settings(lab, own_ledger(lab, "stamps-ns") | DEFAULTS | {"stamp": {"enabled": True}}):
        wait_keys(lab, name, STAMP)
        for _ in range(4):  # as often as people like: that is no fight
            enroll(lab, namespace, None)
            wait_keys(lab, name, {})
            enroll(lab, namespace, "true")
            wait_keys(lab, name, STAMP)


def test_p5_stamps_go_with_their_phase_and_after_a_restart_without_them_and_nothing_else_does(stage, another):
    stage.kube.namespace("stamps-phase")
    stage.kube.namespace("stamps-label", labels={"stamps.example/part": "one"})
    plain, said = (f"Deployment/stamps-phase/{name}" for name in ("plain", "said"))
    labelled, edited = (f"Deployment/stamps-label/{name}" for name in ("labelled", "edited"))
    for name in (plain, said, labelled, edited):
        _, namespace, short = name.split("/")
        stage.kube.create(deployment(namespace, short, stage.image("stamps/app:latest"), replicas=0))
    annotate(stage, said, {TRIGGER: "push", "example.org/owner": "shop"}, "kubectl-edit")
    wait_for("seen by its controller", lambda: all(fetch(stage, name).get("status", {}).get("observedGeneration")
                                                   for name in (plain, said, labelled, edited)))  # fmt: skip
    before = {name: without_stamp(fetch(stage, name)) for name in (plain, said, labelled, edited)}
    assert not any(stamped for _, _, stamped in before.values())

    another.write({"phases": [{"name": "one", "namespaces": ["stamps-phase"], "settings": {"policy": "minor"}}]})
    another.start().wait_ready()
    wait_keys(stage, plain, STAMP | {POLICY: "minor"})
    wait_keys(stage, said, STAMP | {POLICY: "minor", TRIGGER: "push"})
    wait_keys(stage, labelled, STAMP)
    wait_keys(stage, edited, STAMP)

    # The phase is taken out of the file: its stamps go, those of others and what people wrote stay.
    another.write({"phases": []})
    another.process.send_signal(signal.SIGHUP)
    wait_keys(stage, plain, {})
    wait_keys(stage, said, {TRIGGER: "push"})
    assert {name: without_stamp(fetch(stage, name)) for name in (plain, said)} == {name: before[name] for name in (plain, said)}
    assert keel_keys(stage, labelled) == keel_keys(stage, edited) == STAMP

    # Switched off while keeld is down; meanwhile people write over one stamp, and beside it.
    another.stop()
    annotate(stage, edited, {POLICY: "patch", "keel.sh/minAge": "1h"}, "kubectl-edit")
    another.write({"stamp": {"enabled": False}})
    another.start().wait_ready()
    wait_keys(stage, labelled, {})
    wait_keys(stage, edited, {POLICY: "patch", "keel.sh/minAge": "1h"})
    wait_for("none is left", lambda: another.get("/v1/status")["stamp"]["stamped"] == 0)
    annotate(stage, edited, {POLICY: None, "keel.sh/minAge": None}, "kubectl-edit")
    assert {name: without_stamp(fetch(stage, name)) for name in before} == before


def may_patch(lab):
    wish = {"verb": "patch", "group": "apps", "resource": "deployments"}
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview"}
    review["spec"] = {"user": KEELD, "resourceAttributes": wish}
    return lab.kube.call("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)["status"]["allowed"]


def allow(lab, rules, allowed):
    lab.kube.replace(lab.kube.get("clusterroles", None, "keeld") | {"rules": rules})
    wait_for("the rights are in force", lambda: may_patch(lab) == allowed)


def test_stamps_that_the_api_server_refuses_are_told_and_tried_again(lab, namespace):
    name = create(lab, namespace, "app")
    rules = lab.kube.get("clusterroles", None, "keeld")["rules"]
    with settings(lab, own_ledger(lab, "stamps-refused") | DEFAULTS):
        allow(lab, [rule for rule in rules if rule["verbs"] != ["patch"]], False)
        try:
            reload(lab, {"stamp": {"enabled": True}})
            wait_for("told", lambda: "stamp-refused" in problems(lab), 60)
            assert keel_keys(lab, name) == {}
        finally:
            allow(lab, rules, True)
        wait_keys(lab, name, STAMP, 60)
        wait_for("no longer told", lambda: "stamp-refused" not in problems(lab))


def test_stamps_that_somebody_takes_away_again_and_again_are_left(lab, namespace):
    name = create(lab, namespace, "app")
    with settings(lab, own_ledger(lab, "stamps-fight") | DEFAULTS | {"stamp": {"enabled": True}}) as since:
        for _ in range(3):
            wait_keys(lab, name, STAMP)
            annotate(lab, name, {TRIGGER: None}, "terraform")
        wait_for("told", lambda: "stamp-fought" in problems(lab))
        left = {key: value for key, value in STAMP.items() if key != TRIGGER}
        assert keel_keys(lab, name) == left and patches(lab, name, since) == [200] * 3
        # What is left of it goes with the enrolment all the same.
        enroll(lab, namespace, None)
        wait_keys(lab, name, {})
        assert "stamp-fought" not in problems(lab)


def test_what_kyverno_stamped_is_listed_and_removed_on_order(lab, namespace):
    name, other = create(lab, namespace, "stamped"), create(lab, namespace, "own", {POLICY: "minor"})
    annotate(lab, name, {POLICY: "never"}, "kyverno")
    metadata = {"name": "stamped", "namespace": namespace, "annotations": {SCHEDULE: "@every 5m"}}
    applied = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}
    lab.kube.patch("deployments", namespace, "stamped", applied, type="apply", manager="kyverno-background")
    annotate(lab, name, {TRIGGER: "poll"}, "Terraform")
    template, running = fetch(lab, name)["spec"]["template"], pods(lab, name)
    code, out, err = lab.keeld.ctl("migrate", "kyverno")
    assert code == 1 and name in out and "force (default)" in out and other not in out, (out, err)
    code, out, err = lab.keeld.ctl("migrate", "kyverno", "--commands", "--value", f"{TRIGGER}=poll")
    assert f"kubectl -n {namespace} annotate Deployment/stamped {TRIGGER}-" in out.splitlines(), (out, err)
    since = mark(lab)
    assert lab.keeld.ctl("migrate", "kyverno", "--apply", "--dry-run")[0] == 0 and not patches(lab, name, since)
    code, out, err = lab.keeld.ctl("migrate", "kyverno", "--apply", "--reason", "the policy is gone")
    assert code == 0, (out, err)
    wait_keys(lab, name, {TRIGGER: "poll"})
    assert keel_keys(lab, other) == {POLICY: "minor"} and not patches(lab, other, since)
    assert fetch(lab, name)["spec"]["template"] == template
    assert pods(lab, name) == running
    wait_for("keeld has seen it", lambda: lab.keeld.ctl("migrate", "kyverno")[0] == 0)
    told = lab.keeld.get(f"/v1/ledger?workload={name}&kind=ordered")["items"]
    assert [entry["code"] for entry in told] == ["migrated"] and "the policy is gone" in told[0]["text"]


def test_what_kyverno_stamped_onto_a_namespace_is_listed_with_the_line_that_removes_it(lab, namespace):
    def found():
        return [item for item in lab.keeld.get("/v1/migrate/kyverno")["items"] if item["on"] == f"Namespace/{namespace}"]

    lab.kube.patch("namespaces", None, namespace, {"metadata": {"annotations": {POLICY: "patch"}}}, manager="kyverno")
    wait_for("keeld has seen it", found)
    code, out, err = lab.keeld.ctl("migrate", "kyverno")
    assert code == 1 and f"Namespace/{namespace}" in out and "namespace annotation" in out and "force (default)" in out, (out, err)
    code, out, err = lab.keeld.ctl("migrate", "kyverno", "--commands")
    assert f"kubectl annotate Namespace/{namespace} {POLICY}-" in out.splitlines(), (out, err)
    # keeld itself leaves it, says so, and has no right to do otherwise.
    code, out, err = lab.keeld.ctl("migrate", "kyverno", "--apply", "--reason", "the policy is gone")
    assert code == 1 and "no right to write namespaces" in out + err, (out, err)
    assert lab.kube.get("namespaces", None, namespace)["metadata"]["annotations"][POLICY] == "patch"
    lab.kube.patch("namespaces", None, namespace, {"metadata": {"annotations": {POLICY: None}}})
    wait_for("keeld has seen that it is gone", lambda: not found())
