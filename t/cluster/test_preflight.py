"""What cannot work is not begun: the API server is asked by a dry run first. Generation, managed fields and audit log are
witnesses that nothing was written.
"""

import contextlib

import pytest

from lab.client import PATCH_TYPES
from lab.kubernetes import KEELD
from lab.wait import wait_for
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
        after = fetch(stage, name)
        for key in ("generation", "uid"):
            assert after["metadata"][key] == before["metadata"][key]
        assert after["spec"] == before["spec"]
        assert "keeld" not in {one["manager"] for one in after["metadata"]["managedFields"]}
        assert patches(stage, name) == [] and rollouts(stage, name) == []
    told = wait_for("it is told", lambda: entries(stage, workload=name, kind="refused"), 10)
    assert [one["code"] for one in told] == ["dry-run-refused"]
    stage.kube.patch("deployments", ns, "app", {"spec": {"revisionHistoryLimit": 999}})
    ended = wait_ended(stage, name, two)
    assert two in reached(ended) and patches(stage, name) == [200]
