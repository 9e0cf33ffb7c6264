"""What tests of the shared lab have in common: questions to keeld, its requests to the API server, other settings.

A workload is named as keeld names it: Deployment/NAMESPACE/NAME.
"""

import contextlib
import datetime
import json
import re
import signal

from lab.client import plural
from lab.kubernetes import KEELD, audited
from lab.lab import WORKLOADS
from lab.wait import wait_for

ENROLLED = {"keel.sh/enrolled": "true"}
MARKER = "kubectl.kubernetes.io/restartedAt"


def name_of(item):
    return f"{item['kind']}/{item['metadata']['namespace']}/{item['metadata']['name']}"


def fetch(lab, workload):
    kind, namespace, name = workload.split("/")
    return lab.kube.get(kind, namespace, name)


def owned(item):
    """Paths of the fields that keeld is the manager of; of no subresource."""

    def leaves(fields, path=()):
        for key, value in fields.items():
            if key != "." and value:
                yield from leaves(value, (*path, key))
            elif key != ".":
                yield (*path, key)

    (own,) = [entry for entry in item["metadata"]["managedFields"] if entry["manager"] == "keeld"]
    assert not own.get("subresource")
    return list(leaves(own["fieldsV1"]))


def wait_rolled_out(lab, *workloads, deadline=90):
    for workload in workloads:
        kind, namespace, name = workload.split("/")
        lab.kube.wait_rolled_out(namespace, name, plural(kind), deadline)


def running(lab, workload):
    """What the containers of a workload's newest pods run, as containerd knows them."""
    _, namespace, name = workload.split("/")
    pods = {pod["metadata"]["name"] for pod in lab.kube.pods(namespace, name)}
    return [item for item in lab.running(namespace) if item["pod"] in pods]


def empty(lab, *namespaces):
    """Deletes every workload in them and waits until no pod is left."""
    for namespace in namespaces:
        for kind in WORKLOADS:
            for item in lab.kube.list(kind, namespace):
                lab.kube.delete(kind, namespace, item["metadata"]["name"], grace=1)
    for namespace in namespaces:
        wait_for(f"pods of {namespace} gone", lambda: not lab.kube.list("pods", namespace), 60, interval=0.1)


def move(lab, versions, tag="latest"):
    """{repository: version} pushed under the tag so that keeld sees none of them without the others."""
    built = {name: lab.push(name, f"{tag}-{version}", version) for name, version in versions.items()}
    manifests = {name: lab.upstream.manifest(name, pushed.digest).body for name, pushed in built.items()}
    lab.keeld.process.send_signal(signal.SIGSTOP)
    try:
        for name, manifest in manifests.items():
            lab.upstream.put_manifest(name, tag, manifest)
    finally:
        lab.keeld.process.send_signal(signal.SIGCONT)
    return built


# --- what keeld says ----------------------------------------------------------------------------------------


def why(lab, workload):
    return lab.keeld.get(f"/v1/workloads/{workload}")


def wait_why(lab, workload, what, condition, deadline=60):
    """Waits until condition() holds of what keeld says about the workload, and returns that."""
    last = {}

    def met():
        status, answer = lab.keeld.request("GET", f"/v1/workloads/{workload}")
        last.update(answer if status == 200 else {"status": status})
        return answer if status == 200 and condition(answer) else None

    try:
        return wait_for(f"{workload} {what}", met, deadline, interval=0.05)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{json.dumps(last, indent=1)}") from None


def wait_reason(lab, workload, reason, deadline=60):
    return wait_why(lab, workload, f"is {reason}", lambda answer: answer["reason"] == reason, deadline)


def wait_newest(lab, workload, digest, deadline=60):
    """Waits until keeld knows the digest as what the tag of the (first) container answers now."""

    def known(answer):
        return (answer["containers"][0]["newest"] or {}).get("digest") == digest

    return wait_why(lab, workload, f"has {digest} to go to", known, deadline)


def container(answer, name):
    return next(item for item in answer["containers"] if item["name"] == name)


def rollouts(lab, workload):
    """Those that were intended, newest first."""
    items = lab.keeld.get(f"/v1/rollouts?workload={workload}&limit=1000")["items"]
    return [item for item in items if item["intended"]]


def reached(rollout):
    return [target["to"] for target in rollout["targets"]]


def wait_ended(lab, workload, digest, state="done", deadline=90):
    """Waits until the newest rollout to that digest has ended in that state, and returns it."""

    def met():
        found = [item for item in rollouts(lab, workload) if digest in reached(item)]
        return found[0] if found and found[0]["ended"] and found[0]["state"] == state else None

    try:
        return wait_for(f"{workload} {state} with {digest}", met, deadline, interval=0.1)
    except AssertionError as error:
        seen = json.dumps([rollouts(lab, workload), why(lab, workload)], indent=1)
        raise AssertionError(f"{error}\n{seen}") from None


def entries(lab, **query):
    """Lines of the ledger, oldest first."""
    words = "&".join(f"{key}={value}" for key, value in query.items())
    return lab.keeld.get(f"/v1/ledger?limit=1000&{words}")["items"][::-1]


def metric(lab, name):
    """The sum of a metric over its labels."""
    text = lab.keeld.get("/metrics")
    return sum(float(value) for value in re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE))


def time_of(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


# --- what keeld asked of the API server ---------------------------------------------------------------------


def mark(lab):
    """A place in the audit log; what comes after it is told by requests()."""
    return lab.api.audit_log.stat().st_size


def requests(lab, since=0):
    """keeld's own, each once, in the order in which they were answered."""
    with open(lab.api.audit_log, "rb") as log:
        log.seek(since)
        lines = log.read().split(b"\n")[:-1]
    found = [audited(line) for line in lines if KEELD.encode() in line]
    stages = {"watch": "ResponseStarted"}
    return [
        entry
        for entry in found
        if entry["user"]["username"] == KEELD and entry["stage"] == stages.get(entry["verb"], "ResponseComplete")
    ]


def resource(entry):
    return entry.get("objectRef", {}).get("resource", "")


def writes(lab, since=0):
    """What may have changed something, its Lease and its questions about its own permissions aside."""
    return [
        entry
        for entry in requests(lab, since)
        if entry["verb"] not in ("get", "list", "watch", "dry-run")
        and resource(entry) not in ("leases", "selfsubjectaccessreviews")
    ]


def patches(lab, workload, since=0):
    """Status codes of the patches of one workload."""
    kind, namespace, name = workload.split("/")
    place = (plural(kind), namespace, name)
    return [
        entry["responseStatus"]["code"]
        for entry in writes(lab, since)
        if tuple(entry["objectRef"].get(key) for key in ("resource", "namespace", "name")) == place
    ]


# --- other settings -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def settings(lab, change):
    """keeld runs with `change` over its settings, and with its own again afterwards.

    Gives the place in the audit log before its first request.
    """
    before = lab.keeld.config
    lab.keeld.stop()
    since = mark(lab)
    try:
        lab.keeld.write(change)
        lab.keeld.start().wait_ready()
        yield since
    finally:
        lab.keeld.stop()
        lab.keeld.config = before
        lab.keeld.write()
        lab.keeld.start().wait_ready()


def own_ledger(lab, name):
    """Settings of a keeld that has seen nothing yet: a ledger of its own, and so a Lease of its own."""
    return {"ledger": {"path": f"{lab.keeld.folder}/{name}.db"}, "kubernetes": {"lease": {"name": name}}}


def reload(lab, change):
    """keeld reads its settings again, with `change` over them."""

    def taken():
        return lab.keeld.log.read_text(errors="replace").count(": taken (")

    before = taken()
    lab.keeld.write(change)
    lab.keeld.process.send_signal(signal.SIGHUP)
    wait_for("keeld's settings taken", lambda: taken() > before, 10)
