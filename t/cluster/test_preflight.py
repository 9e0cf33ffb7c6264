"""What cannot work is not begun: the API server is asked by a dry run first. Generation, managed fields and audit log are
witnesses that nothing was written.
"""

import contextlib

import pytest

from lab.client import PATCH_TYPES
from lab.kubernetes import KEELD
from lab.wait import wait_for
from lab.workloads import deployment
from scene import entries, fetch, mark, patches, reached, requests, resource, rollouts, wait_ended, wait_why

POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
BINDINGS = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
MESSAGE = "templates are frozen until Monday"


def tried(stage, namespace, name, **query):
    """Status of a patch that would change nothing, asked as keeld."""
    path = stage.kube.path("deployments", namespace, name, **query)
    with contextlib.closing(stage.api.client(KEELD)) as client:
        return client.request("PATCH", path, {"metadata": {"name": name}}, content_type=PATCH_TYPES["merge"])[0]


@contextlib.contextmanager
def refused(stage, namespace, name="app", dry_runs=True):
    """The API server's admission refuses whatever keeld changes in the Deployment; also what it only tries."""
    query = {"dryRun": "All"} if dry_runs else {}
    exempt = "false" if dry_runs else "has(request.dryRun) && request.dryRun"
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": namespace},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "resourceRules": [
                    {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["deployments"]}
                ]
            },
            "validations": [
                {
                    "expression": f"request.userInfo.username != '{KEELD}' || request.namespace != '{namespace}' "
                    f"|| request.name != '{name}' || {exempt}",
                    "message": MESSAGE,
                }
            ],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": namespace},
        "spec": {"policyName": namespace, "validationActions": ["Deny"]},
    }
    stage.kube.call("POST", POLICIES, policy)
    stage.kube.call("POST", BINDINGS, binding)
    try:
        wait_for("the policy is in force", lambda: tried(stage, namespace, name, **query) in (403, 422), 60)
        yield
    finally:
        stage.kube.call("DELETE", f"{BINDINGS}/{namespace}")
        stage.kube.call("DELETE", f"{POLICIES}/{namespace}")
        wait_for("the policy is gone", lambda: tried(stage, namespace, name, **query) == 200, 60)


def gate(answer, name):
    return next((one for one in answer.get("gates", []) if one["gate"] == name), None)


def unwritten(stage, name, before):
    """keeld has not touched the workload, and counts no rollout of it."""
    after = fetch(stage, name)
    for key in ("generation", "uid"):
        assert after["metadata"][key] == before["metadata"][key]
    assert after["spec"] == before["spec"]
    assert "keeld" not in {one["manager"] for one in after["metadata"]["managedFields"]}
    assert patches(stage, name) == [] and rollouts(stage, name) == []


@pytest.mark.parametrize("what", ["restart", "tag"])
def test_r2_what_admission_refuses_is_not_written(stage, what):
    """Blocked with the server's own words; nothing is written, no place is taken; released when the server agrees."""
    ns, repository = f"refused-{what}", f"refused-{what}/app"
    name = f"Deployment/{ns}/app"
    old, new = ("latest", "latest") if what == "restart" else ("1.0.0", "1.1.0")
    stage.deploy(ns, "app", repository, tag=old, annotations={"keel.sh/policy": "minor"} if what == "tag" else None)
    before = fetch(stage, name)
    with refused(stage, ns):
        since = mark(stage)
        two = stage.move(repository, new)
        answer = wait_why(stage, name, "is held by preflight", lambda told: gate(told, "preflight"))
        said = gate(answer, "preflight")
        assert said["text"].startswith("dry-run-refused: ") and MESSAGE in said["text"] and said["until"]
        asked = [one for one in requests(stage, since) if one["verb"] == "dry-run" and resource(one) == "deployments"]
        assert [one["objectRef"]["namespace"] for one in asked if one["objectRef"]["namespace"] == ns] == [ns]
        unwritten(stage, name, before)
    told = wait_for("it is told", lambda: entries(stage, workload=name, kind="refused"), 10)
    assert [one["code"] for one in told] == ["dry-run-refused"]
    stage.kube.patch("deployments", ns, "app", {"spec": {"revisionHistoryLimit": 999}})
    ended = wait_ended(stage, name, two)
    assert two in reached(ended) and patches(stage, name) == [200]


# --- what stands around it -------------------------------------------------------------------------------------


def deploy(stage, ns, pod=None, container=None, **spec):
    """A Deployment of one pod on its own repository, running and current: its name as keeld calls it."""
    if not stage.kube.get("namespaces", None, ns):
        stage.kube.namespace(ns, labels={"keel.sh/enrolled": "true"})
    stage.move(f"{ns}/app")
    item = deployment(ns, "app", stage.image(f"{ns}/app:latest"), spec=spec)
    item["spec"]["template"]["spec"].update(pod or {})
    item["spec"]["template"]["spec"]["containers"][0].update(container or {})
    stage.kube.create(item)
    stage.kube.wait_rolled_out(ns, "app")
    stage.wait_current(ns, "app")
    return f"Deployment/{ns}/app"


def stands_in_the_way(stage, name, code):
    """Its tag moves; keeld says that this stands in the way, once, and writes nothing. Gives the new digest and what it says."""
    before, since = fetch(stage, name), mark(stage)
    _, ns, _ = name.split("/")
    two = stage.move(f"{ns}/app")
    answer = wait_why(stage, name, f"is held by {code}", lambda told: (gate(told, "preflight") or {"text": ""})["text"].startswith(code))
    unwritten(stage, name, before)
    assert {one["verb"] for one in requests(stage, since) if resource(one) == "pods"} <= {"dry-run", "list"}
    told = wait_for("it is told", lambda: entries(stage, workload=name, kind="refused"), 10)
    assert [one["code"] for one in told] == [code]
    return two, gate(answer, "preflight")["text"]


def goes_on(stage, name, digest):
    """What stood in the way is gone: keeld looks again when the workload changes, and writes once."""
    _, ns, _ = name.split("/")
    stage.kube.patch("deployments", ns, "app", {"spec": {"revisionHistoryLimit": 999}})
    wait_ended(stage, name, digest)
    assert patches(stage, name) == [200]


def allow(stage, name, code):
    """What the message names as its release."""
    _, ns, _ = name.split("/")
    stage.kube.patch("deployments", ns, "app", {"metadata": {"annotations": {f"keel.sh/{code}": "allow"}}})


def quota(stage, ns, pods):
    """The namespace holds so many pods, and the controller has counted those there are."""
    body = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small", "namespace": ns}, "spec": {"hard": {"pods": pods}}}
    stage.kube.create(body)

    def counted():
        return stage.kube.get("resourcequotas", ns, "small").get("status", {}).get("used", {}).get("pods") == "1"

    wait_for("the quota is counted", counted, 60)


def test_r2_a_quota_without_room_for_the_new_pod(stage):
    """INC-53: the new pod comes before the old one goes, and does not fit. Where the old one goes first, it does."""
    beside, after = deploy(stage, "quota-beside"), deploy(stage, "quota-after", strategy={"type": "Recreate"})
    for ns in ("quota-beside", "quota-after"):
        quota(stage, ns, "1")
    two, said = stands_in_the_way(stage, beside, "quota-exceeded")
    assert "exceeded quota: small" in said and "maxUnavailable" in said
    wait_ended(stage, after, stage.move("quota-after/app"))
    stage.kube.patch("resourcequotas", "quota-beside", "small", {"spec": {"hard": {"pods": "2"}}})
    roomy = lambda: stage.kube.get("resourcequotas", "quota-beside", "small")["status"]["hard"]["pods"] == "2"  # noqa: E731
    wait_for("the quota is larger", roomy, 60)
    goes_on(stage, beside, two)


def test_r2_a_pod_that_admission_refuses(stage):
    """The template was taken, its pods would not be: a LimitRange came later."""
    name = deploy(stage, "limited", container={"resources": {"limits": {"memory": "128Mi"}}})
    limit = {"type": "Container", "max": {"memory": "64Mi"}}
    stage.kube.create(
        {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "small", "namespace": "limited"}, "spec": {"limits": [limit]}}
    )
    two, said = stands_in_the_way(stage, name, "pod-refused")
    assert "maximum memory usage per Container is 64Mi, but limit is 128Mi" in said
    stage.kube.delete("limitranges", "limited", "small")
    goes_on(stage, name, two)


def test_r2_a_port_of_a_node_that_the_old_pod_has(stage):
    """INC-52: one node, and its port is taken until the new pod is ready. Where the old pod goes first, nothing is in the way."""
    ports = {"ports": [{"containerPort": 8080, "hostPort": 18080}]}
    name = deploy(stage, "ports", container=ports)
    two, said = stands_in_the_way(stage, name, "host-port-in-use")
    assert "maxUnavailable: 1" in said
    gone = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    stage.kube.patch("deployments", "ports", "app", {"spec": {"strategy": gone}})
    goes_on(stage, name, two)


def test_r2_a_volume_for_one_pod(stage):
    """The new pod gets the volume when the old one has gone, which stays until the new one is ready."""
    ns, mode = "volume", "ReadWriteOncePod"
    claim = {
        "accessModes": [mode], "storageClassName": "", "volumeName": "volume-data", "resources": {"requests": {"storage": "1Mi"}},
    }  # fmt: skip
    volume = {"accessModes": [mode], "capacity": {"storage": "1Mi"}, "hostPath": {"path": "/nowhere"}}
    stage.kube.namespace(ns, labels={"keel.sh/enrolled": "true"})
    stage.kube.create({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "volume-data"}, "spec": volume})
    meta = {"name": "data", "namespace": ns}
    stage.kube.create({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": claim})
    name = deploy(stage, ns, pod={"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]})
    two, said = stands_in_the_way(stage, name, "volume-in-use")
    assert f"data ({mode})" in said and "keel.sh/volume-in-use: allow" in said
    # Its own words say how: the strategy, or the annotation.
    stage.kube.patch("deployments", ns, "app", {"spec": {"strategy": {"type": "Recreate", "rollingUpdate": None}}})
    goes_on(stage, name, two)


def test_r2_a_budget_that_lets_nobody_go(stage):
    """A rollout would take the only pod before its successor is there; the annotation says that this is meant."""
    ns = "budget"
    name = deploy(stage, ns, strategy={"type": "Recreate"})
    budget = {"minAvailable": 1, "selector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["app", "other"]}]}}
    for which, spec in (("own", budget), ("others", {"minAvailable": 1, "selector": {"matchLabels": {"app": "other"}}})):
        meta = {"name": which, "namespace": ns}
        stage.kube.create({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta, "spec": spec})
    counted = lambda: stage.kube.get("poddisruptionbudgets", ns, "own").get("status", {}).get("expectedPods")  # noqa: E731
    wait_for("the budget is counted", counted, 60)
    two, said = stands_in_the_way(stage, name, "disruption-budget")
    assert "PodDisruptionBudget own " in said
    allow(stage, name, "disruption-budget")
    goes_on(stage, name, two)


def test_r2_a_node_that_is_being_emptied(stage):
    """Its pod is about to move anyway; a rollout waits until the node is uncordoned."""
    name = deploy(stage, "drained")
    stage.kube.patch("nodes", None, "told-1", {"spec": {"unschedulable": True}})
    try:
        two, said = stands_in_the_way(stage, name, "draining")
        assert "told-1" in said
    finally:
        stage.kube.patch("nodes", None, "told-1", {"spec": {"unschedulable": None}})
    taken = lambda: not stage.kube.get("nodes", None, "told-1")["spec"].get("taints")  # noqa: E731
    wait_for("the node takes pods again", taken, 60)
    wait_ended(stage, name, two)
    assert patches(stage, name) == [200]
