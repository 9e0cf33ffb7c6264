"""What is not to be restarted is not: vetoes, enrolment, blocked kinds, pacing, doubtful answers, mode observe."""

import contextlib
import http.server
import json
import shutil
import threading
import types

import pytest

from lab.lab import REGISTRY
from lab.wait import wait_for
from lab.workloads import deployment, statefulset
from scene import (
    ENROLLED, container, empty, fetch, mark, metric, move, name_of, own_ledger, patches, reached, reload, requests,
    resource, rollouts, settings, time_of, wait_ended, wait_reason, wait_rolled_out, wait_why, why, writes,
)  # fmt: skip

NEVER = {"keel.sh/policy": "never"}
VETOES = {
    "workload-annotation": "workload annotation",
    "workload-label": "workload label",
    "template-annotation": "pod template annotation",
    "template-label": "pod template label",
    "namespace-annotation": "namespace annotation",
    "namespace-label": "namespace label",
}
UNTOUCHED = {
    "apart": "not-enrolled",
    "refused": "not-enrolled",
    "kube-public": "excluded-namespace",
    "keel": "excluded-namespace",
}


def template(item):
    return item["spec"]["template"]


def as_it_was(lab, before):
    """The workload's specification has not changed, and no field of it is keeld's."""
    now = fetch(lab, name_of(before))
    assert now["metadata"]["uid"] == before["metadata"]["uid"]
    assert now["metadata"]["generation"] == before["metadata"]["generation"]
    assert now["spec"] == before["spec"]
    for key in ("labels", "annotations"):
        assert now["metadata"].get(key) == before["metadata"].get(key)
    assert "keeld" not in [entry["manager"] for entry in now["metadata"]["managedFields"]]


@pytest.fixture(scope="module")
def moved(lab):
    """One tag moved; what was not to follow stands beside what did."""
    kube, image = lab.kube, lab.image("policy/app:latest")
    lab.push("policy/app", "latest", "one")
    lab.push("policy/postgres", "latest", "one")
    kube.namespace("follows", labels=ENROLLED)
    kube.namespace("leaves", labels=ENROLLED)
    kube.namespace("by-annotation", labels=ENROLLED, annotations=NEVER)
    kube.namespace("by-label", labels=ENROLLED | NEVER)
    kube.namespace("apart")
    kube.namespace("refused", labels={"keel.sh/enrolled": "false"})
    for name in ("kube-public", "keel"):
        kube.patch("namespaces", None, name, {"metadata": {"labels": ENROLLED}})
    made = ["follows", "leaves", "by-annotation", "by-label", "apart", "refused"]

    follows = deployment("follows", "app", image)
    leaves = deployment("leaves", "app", image)
    vetoed = {
        "workload-annotation": deployment("follows", "by-annotation", image, annotations=NEVER),
        "workload-label": deployment("follows", "by-label", image, labels=NEVER),
        "template-annotation": deployment("follows", "by-template-annotation", image),
        "template-label": deployment("follows", "by-template-label", image),
        "namespace-annotation": deployment("by-annotation", "app", image),
        # An explicit policy of its own is stronger than anything but a veto.
        "namespace-label": deployment("by-label", "app", image, annotations={"keel.sh/policy": "force"}),
    }
    template(vetoed["template-annotation"])["metadata"]["annotations"] = dict(NEVER)
    template(vetoed["template-label"])["metadata"]["labels"].update(NEVER)
    untouched = {name: deployment(name, "app", image) for name in UNTOUCHED}

    postgres = lab.image("policy/postgres:latest")
    owner = {"apiVersion": "databases.example/v1", "kind": "Database", "name": "main", "controller": True,
             "uid": "8bd1b3ab-2f2a-4f8e-9d6f-0d2a2f6a9a01"}  # fmt: skip
    allow = {"keel.sh/stateful": "allow"}
    guarded = {
        "set": (statefulset("follows", "set", image), "stateful"),
        "database": (deployment("follows", "database", postgres), "stateful"),
        "beside": (deployment("follows", "beside", "", containers={"app": image, "db": postgres}), "stateful"),
        "owned": (deployment("follows", "owned", image), "operator-owned"),
        # The key of the other kind, or a policy, releases nothing.
        "forced": (statefulset("follows", "forced", image, annotations={"keel.sh/policy": "force",
                                                                       "keel.sh/operator-owned": "allow"}), "stateful"),
        "misled": (deployment("follows", "misled", image, annotations={"keel.sh/stateful": "allow"}), "operator-owned"),
    }  # fmt: skip
    released = {
        "set": statefulset("follows", "released-set", image, annotations=allow),
        "database": deployment("follows", "released-database", postgres, annotations=allow),
        "beside": deployment("follows", "released-beside", "", annotations=allow,
                             containers={"app": image, "db": postgres}),
        "owned": deployment("follows", "released-owned", image, annotations={"keel.sh/operator-owned": "allow"}),
    }  # fmt: skip
    for item in (guarded["owned"][0], guarded["misled"][0], released["owned"]):
        item["metadata"]["ownerReferences"] = [owner]

    everything = [follows, leaves, *vetoed.values(), *untouched.values()]
    everything += [item for item, _ in guarded.values()] + list(released.values())
    for item in everything:
        kube.create(item)
    wait_rolled_out(lab, *map(name_of, everything), deadline=180)
    for item in [follows, leaves, *released.values()]:
        wait_reason(lab, name_of(item), "up-to-date")
    before = {name_of(item): fetch(lab, name_of(item)) for item in everything}

    # It leaves right before the tag moves.
    kube.patch("namespaces", None, "leaves", {"metadata": {"labels": {"keel.sh/enrolled": None}}})
    wait_reason(lab, name_of(leaves), "not-enrolled", 5)
    since = mark(lab)
    pushed = move(lab, {"policy/app": "two", "policy/postgres": "two"})
    two, db = pushed["policy/app"], pushed["policy/postgres"]
    wait_ended(lab, name_of(follows), two.digest)
    for name, item in released.items():
        wait_ended(lab, name_of(item), db.digest if name == "database" else two.digest)
    yield types.SimpleNamespace(
        follows=follows, leaves=leaves, vetoed=vetoed, untouched=untouched, guarded=guarded, released=released,
        before=before, since=since, two=two, db=db,
    )  # fmt: skip
    empty(lab, *made, "kube-public", "keel")
    for name in made:
        kube.delete("namespaces", None, name)
    for name in ("kube-public", "keel"):
        kube.patch("namespaces", None, name, {"metadata": {"labels": {"keel.sh/enrolled": None}}})


def test_p4_only_what_is_enrolled_is_written(lab, moved):
    """The audit log holds one patch for each workload that follows, and no other write by keeld."""
    followers = [moved.follows, *moved.released.values()]
    written = {(item["objectRef"]["resource"], item["objectRef"]["namespace"], item["objectRef"]["name"])
               for item in writes(lab, moved.since)}  # fmt: skip
    assert written == {(f"{item['kind'].lower()}s", "follows", item["metadata"]["name"]) for item in followers}
    assert len(writes(lab, moved.since)) == len(followers)
    assert {item["responseStatus"]["code"] for item in writes(lab, moved.since)} == {200}


@pytest.mark.parametrize("where", VETOES)
def test_p3_a_veto_holds_wherever_it_is_written(lab, moved, where):
    item = moved.vetoed[where]
    answer = why(lab, name_of(item))
    assert (answer["verdict"], answer["reason"]) == ("ignore", "vetoed")
    assert f"stands as {VETOES[where]};" in answer["sentence"]
    as_it_was(lab, moved.before[name_of(item)])
    code, out, _ = lab.keeld.ctl("why", name_of(item))
    assert code == 0 and "vetoed" in out and VETOES[where] in out
    policy = container(answer, "app")["settings"]["policy"]
    if where == "namespace-label":
        losers = [(loser["value"], loser["layer"]) for loser in policy["overridden"]]
        assert (policy["value"], policy["layer"]) == ("force", "workload annotation")
        assert ("never", "namespace label") in losers
    else:
        assert (policy["value"], policy["layer"]) == ("never", VETOES[where])


@pytest.mark.parametrize("namespace", UNTOUCHED)
def test_p4_not_enrolled_is_untouched(lab, moved, namespace):
    item = moved.untouched[namespace]
    answer = why(lab, name_of(item))
    assert (answer["verdict"], answer["reason"]) == ("ignore", UNTOUCHED[namespace])
    assert answer["enrolled_by"] is None and answer["rollout"] is None
    as_it_was(lab, moved.before[name_of(item)])


def test_p4_pods_of_others_are_not_even_read(lab, moved):
    """Workloads and namespaces are watched; pods are read where they are enrolled."""
    read = {entry["objectRef"].get("namespace") for entry in requests(lab) if resource(entry) == "pods"}
    assert "follows" in read and not read & {None, *UNTOUCHED}


def test_p4_leaving_stops_at_once_and_coming_back_goes_on(lab, moved):
    name = name_of(moved.leaves)
    as_it_was(lab, moved.before[name])
    assert rollouts(lab, name) == []
    lab.kube.patch("namespaces", None, "leaves", {"metadata": {"labels": ENROLLED}})
    wait_ended(lab, name, moved.two.digest)
    assert patches(lab, name) == [200]


def test_p3_without_the_veto_it_follows(lab, moved):
    name = name_of(moved.vetoed["workload-annotation"])
    lab.kube.patch("deployments", "follows", "by-annotation", {"metadata": {"annotations": {"keel.sh/policy": None}}})
    wait_ended(lab, name, moved.two.digest)
    assert patches(lab, name) == [200]


@pytest.mark.parametrize("kind", ["set", "database", "beside", "owned", "forced", "misled"])
def test_s2_blocked_until_its_own_key_releases_it(lab, moved, kind):
    item, reason = moved.guarded[kind]
    answer = why(lab, name_of(item))
    assert (answer["verdict"], answer["reason"]) == ("blocked", reason)
    key = "keel.sh/stateful" if reason == "stateful" else "keel.sh/operator-owned"
    assert f"{key}: allow" in answer["sentence"]
    as_it_was(lab, moved.before[name_of(item)])
    assert lab.keeld.ctl("why", name_of(item))[0] == 1
    if kind == "beside":
        beside = container(answer, "app")
        assert (beside["verdict"], beside["reason"]) == ("blocked", "sibling-blocked")
        assert "container db" in beside["sentence"]
    if kind == "owned":
        assert "Database/main" in answer["sentence"]


@pytest.mark.parametrize("kind", ["set", "database", "beside", "owned"])
def test_s2_its_own_key_releases_it(lab, moved, kind):
    item = moved.released[kind]
    (rollout,) = rollouts(lab, name_of(item))
    wanted = {"database": [moved.db.digest], "beside": [moved.two.digest, moved.db.digest]}
    assert (rollout["state"], reached(rollout)) == ("done", wanted.get(kind, [moved.two.digest]))
    assert wait_reason(lab, name_of(item), "up-to-date")["verdict"] == "current"


# --- pacing -------------------------------------------------------------------------------------------------------


def test_r5_r8_pacing_holds_over_restarts_and_downtime(lab, namespace):
    """Two an hour: of four that are due two roll; the others wait, through a restart and for what moved meanwhile."""
    lab.push("paced/app", "latest", "one")
    items = [deployment(namespace, f"app-{number}", lab.image("paced/app:latest")) for number in range(4)]
    names = [name_of(item) for item in items]
    for item in items:
        lab.kube.create(item)
    wait_rolled_out(lab, *names)

    def waiting(digest):
        """{workload: until} of those that wait for a place with that target."""
        found = {}
        for name in names:
            answer = why(lab, name)
            gates = {gate["gate"]: gate for gate in answer["gates"]}
            target = container(answer, "app")["target"] or {}
            if answer["verdict"] == "roll" and target.get("digest") == digest and gates.keys() == {"awaiting-pacing"}:
                found[name] = gates["awaiting-pacing"]["until"]
        return found

    limits = {"pacing": {"cluster": "2/h", "namespace": "unlimited", "concurrent": "unlimited"}}
    with settings(lab, own_ledger(lab, "paced") | limits) as since:
        for name in names:
            wait_reason(lab, name, "up-to-date")
        two = lab.push("paced/app", "latest", "two")
        wait_for("two rollouts", lambda: sum(len(rollouts(lab, name)) for name in names) == 2, 60)
        rolled = [name for name in names if rollouts(lab, name)]
        for name in rolled:
            wait_ended(lab, name, two.digest)
        held = wait_for("two that wait", lambda: len(found := waiting(two.digest)) == 2 and found)
        assert set(held) == set(names) - set(rolled)
        first = min(time_of(rollouts(lab, name)[0]["intended"]) for name in rolled)
        assert {(time_of(until) - first).total_seconds() for until in held.values()} == {3600}
        pacing = lab.keeld.get("/v1/status")["pacing"]
        assert pacing["used"] == 2 and time_of(pacing["next_free"]) == time_of(next(iter(held.values())))

        lab.keeld.restart()
        assert wait_for("the same wait", lambda: len(found := waiting(two.digest)) == 2 and found) == held

        lab.keeld.stop()
        three = lab.push("paced/app", "latest", "three")
        lab.keeld.start().wait_ready()
        held_by_all = wait_for("all wait", lambda: len(found := waiting(three.digest)) == 4 and found)
        assert set(held_by_all.values()) == set(held.values())

        # A veto ends the wait of one of them.
        lab.kube.patch("deployments", namespace, names[0].split("/")[-1], {"metadata": {"annotations": NEVER}})
        answer = wait_reason(lab, names[0], "vetoed")
        assert answer["gates"] == []
        wait_for("three wait", lambda: set(waiting(three.digest)) == set(names[1:]))
        assert len(writes(lab, since)) == 2


# --- answers that are no news -------------------------------------------------------------------------------------


class Faulty:
    """In the place of the pull-through: answers with a status of choice, and a digest that nothing has."""

    def __init__(self, port):
        owner = self
        self.status, self.asked = 500, 0

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                owner.asked += 1
                self.send_response(owner.status)
                self.send_header("Docker-Content-Digest", "sha256:" + "0" * 64)
                self.send_header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
                if owner.status == 429:
                    self.send_header("Retry-After", "1")
                self.send_header("Content-Length", "0")
                self.send_header("Connection", "close")  # nothing of it stays when it has ended
                self.end_headers()

            do_GET = do_HEAD

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


@contextlib.contextmanager
def without_pull_through(lab):
    lab.through.stop()
    try:
        yield
    finally:
        lab.through.start().wait_ready()


def test_d8_failures_are_never_a_change(lab, namespace):
    """401, 403, 404, 429, 5xx and silence, each with a digest that would be a change if it were believed."""
    one = lab.push("failing/app", "latest", "one")
    lab.kube.create(deployment(namespace, "app", lab.image("failing/app:latest")))
    name = f"Deployment/{namespace}/app"
    wait_rolled_out(lab, name)
    wait_reason(lab, name, "up-to-date")
    since = mark(lab)

    def told(text):
        def met(answer):
            assert answer["reason"] == "up-to-date" and answer["rollout"] is None
            assert answer["containers"][0]["newest"]["digest"] == one.digest
            return text in (answer["containers"][0]["freshness"]["failure"] or "")

        return met

    with without_pull_through(lab):
        wait_why(lab, name, "tells that nobody answers", told("answered 502"))
        faulty = Faulty(lab.through.port)
        try:
            for status in (401, 403, 404, 429, 500, 503):
                faulty.status = status
                wait_why(lab, name, f"tells of {status}", told(f"answered {status}"))
            problems = [item for item in lab.keeld.get("/v1/status")["problems"] if item["code"] == "tag-unanswered"]
            assert [item for item in problems if "failing/app:latest" in item["text"]]
        finally:
            faulty.stop()
    wait_why(lab, name, "has its answers again", lambda item: item["containers"][0]["freshness"]["failure"] is None)
    assert rollouts(lab, name) == [] and writes(lab, since) == []
    (seen,) = [item for item in lab.nginx.tags() if item["tag"] == f"{REGISTRY}/failing/app:latest"]
    assert seen["digest"] == one.digest, "the module believes no failure either"
    two = lab.push("failing/app", "latest", "two")
    wait_ended(lab, name, two.digest)


def test_d8_a_digest_that_goes_back_needs_a_second_source(lab, namespace):
    """A pull-through that was restored answers 200 with what it knew when its upstream is down: no news. Confirmed
    by the upstream itself, `reverts` decides: ask waits, never blocks, follow rolls.
    """
    one = lab.push("back/app", "latest", "one")
    lab.kube.create(deployment(namespace, "app", lab.image("back/app:latest")))
    name = f"Deployment/{namespace}/app"
    wait_rolled_out(lab, name)
    wait_reason(lab, name, "up-to-date")
    storage = lab.through.folder / lab.through.name
    shutil.copytree(storage, lab.folder / "old-storage")
    two = lab.push("back/app", "latest", "two")
    wait_ended(lab, name, two.digest)
    wait_reason(lab, name, "up-to-date")

    # The storage of before is back, and the upstream is not there.
    lab.keeld.stop()
    with without_pull_through(lab):
        shutil.rmtree(storage)
        (lab.folder / "old-storage").rename(storage)
    lab.upstream.stop()
    since = mark(lab)
    try:
        lab.keeld.start().wait_ready()
        answer = wait_reason(lab, name, "revert-unconfirmed")
        assert answer["verdict"] == "blocked" and one.digest[:19] in answer["sentence"]
        through = lab.nginx.through(REGISTRY).manifest("back/app", "latest", "HEAD", f"?ns={REGISTRY}")
        assert (through.status, through.digest) == (200, one.digest)
        assert answer["containers"][0]["newest"]["digest"] == two.digest
    finally:
        lab.upstream.start().wait_ready()
    wait_reason(lab, name, "up-to-date")

    # Now the publisher himself goes back.
    with settings(lab, {}):
        manifest = lab.upstream.manifest("back/app", one.digest).body
        lab.upstream.put_manifest("back/app", "latest", manifest)
        answer = wait_reason(lab, name, "digest-moved")
        assert answer["containers"][0]["target"]["digest"] == one.digest
        assert [gate["gate"] for gate in answer["gates"]] == ["awaiting-approval"]
        reload(lab, {"defaults": {"reverts": "never"}})
        answer = wait_reason(lab, name, "revert-refused")
        assert answer["verdict"] == "blocked" and answer["gates"] == []
        assert writes(lab, since) == []
        reload(lab, {"defaults": {"reverts": "follow"}})
        wait_ended(lab, name, one.digest)
        assert patches(lab, name, since) == [200]
        wait_rolled_out(lab, name)
        (pod,) = lab.kube.pods(namespace, "app")
        found = [item for item in lab.running(namespace) if item["pod"] == pod["metadata"]["name"]]
        assert [item["digest"] for item in found] == [one.digest]


# --- newer tags ---------------------------------------------------------------------------------------------------


def images(lab, workload):
    """{container: image} of the pod template."""
    spec = fetch(lab, workload)["spec"]["template"]["spec"]
    return {item["name"]: item["image"] for item in spec.get("initContainers", []) + spec["containers"]}


def policy(name):
    return {"keel.sh/policy": name}


@pytest.fixture(scope="module")
def versions(lab):
    """One repository with versions, variants, traps and what has no order; workloads of every policy run 1.2.3."""
    kube, at = lab.kube, lab.image("versions/app:1.2.3")
    pushed = {tag: lab.push("versions/app", tag, tag) for tag in ("1.2.3", "1.2.4", "1.3.0", "2.0.0")}
    for tag in ("1.2.3-debug", "1.9.0-debug", "1.2", "9.9.9", "1.4.0_x", "a1b2c3d", "20261122", "v1.9.9", "latest"):
        lab.upstream.put_manifest("versions/app", tag, lab.upstream.manifest("versions/app", "1.2.3").body)
    elsewhere = {"architecture": "s390x", "os": "linux"}
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json"}
    child = lab.upstream.manifest("versions/app", "1.2.3")
    index["manifests"] = [{"mediaType": child.type, "digest": child.digest,
                           "size": len(child.body), "platform": elsewhere}]  # fmt: skip
    lab.upstream.put_manifest("versions/app", "1.2.5", index)
    kube.namespace("versions", labels=ENROLLED)
    made = {
        "patch": deployment("versions", "patch", at, annotations=policy("patch")),
        "minor": deployment("versions", "minor", at, annotations=policy("minor")),
        "major": deployment("versions", "major", at, annotations=policy("major")),
        "glob": deployment("versions", "glob", at, annotations=policy("glob:1.?.?")),
        "force": deployment("versions", "force", at, annotations=policy("force")),
        "odd": deployment("versions", "odd", at, annotations=policy("Force")),
        "step": deployment("versions", "step", at, annotations=policy("major") | {"keel.sh/step": "lowest"}),
        "foreign": deployment("versions", "foreign", at, annotations=policy("glob:2.*")),
        "latest": deployment("versions", "latest", lab.image("versions/app:latest"), annotations=policy("major")),
        "newest": deployment("versions", "newest", lab.image("versions/app:2.0.0"), annotations=policy("all")),
        "push": deployment("versions", "push", at, annotations=policy("minor") | {"keel.sh/trigger": "default"}),
        "apart": deployment("versions", "apart", at, annotations=policy("minor"),
                            containers={"app": at, "side": at}),
    }  # fmt: skip
    made["apart"]["metadata"]["annotations"]["keel.sh/monitorContainers"] = "^app$"
    since = mark(lab)
    for item in made.values():
        kube.create(item)
    yield types.SimpleNamespace(made=made, pushed=pushed, since=since, at=at)
    empty(lab, "versions")
    kube.delete("namespaces", None, "versions")


@pytest.mark.parametrize(
    "name, tag", {"patch": "1.2.4", "minor": "1.3.0", "major": "2.0.0", "glob": "1.3.0"}.items()
)
def test_v1_v2_v3_the_highest_that_the_policy_allows_is_written(lab, versions, name, tag):
    """Not the variant, not the other prefix, not what has another number of fields, nothing behind a jump."""
    workload = f"Deployment/versions/{name}"
    rollout = wait_ended(lab, workload, versions.pushed[tag].digest)
    (target,) = rollout["targets"]
    assert (target["image"], target["from_image"]) == (lab.image(f"versions/app:{tag}"), versions.at)
    assert images(lab, workload) == {"app": lab.image(f"versions/app:{tag}")}
    assert patches(lab, workload, versions.since) == [200]
    wait_rolled_out(lab, workload)
    (pod,) = [item for item in lab.running("versions") if item["pod"].startswith(f"{name}-")]
    assert pod["digest"] == versions.pushed[tag].digest


def test_v2_what_is_not_made_for_the_node_is_passed_over(lab, versions):
    """1.2.5 is the highest patch and made for another platform."""
    answer = wait_why(lab, "Deployment/versions/patch", "has settled", lambda item: item["verdict"] != "roll")
    (app,) = answer["containers"]
    assert (app["reason"], app["newest"]["name"]) == ("incomplete", "9.9.9")
    assert "1.2.5 is passed over: it is not made for linux/" in app["sentence"]


KEPT = {
    "force": ("current", "beyond-policy", "force does not allow it"),
    "odd": ("blocked", "policy-invalid", '"Force" (workload annotation)'),
    "step": ("blocked", "policy-invalid", "keel.sh/step"),
    "foreign": ("blocked", "stream-unknown", "does not match"),
    "latest": ("current", "fixed-tag", "never changes"),
    "newest": ("blocked", "stream-jump", "9.9.9"),
    "push": ("blocked", "awaiting-webhook", "webhooks alone"),
    "apart": ("blocked", "sibling-blocked", "container side has the same reference"),
}


@pytest.mark.parametrize("name", KEPT)
def test_v2_v3_v4_v5_the_rest_stays_and_says_why(lab, versions, name):
    verdict, reason, text = KEPT[name]
    workload = f"Deployment/versions/{name}"
    answer = wait_reason(lab, workload, reason)
    assert answer["verdict"] == verdict and text in answer["sentence"]
    item = versions.made[name]
    assert set(images(lab, workload).values()) == {template(item)["spec"]["containers"][0]["image"]}
    assert patches(lab, workload, versions.since) == [] and rollouts(lab, workload) == []


def test_d2_d3_d5_why_names_the_newest_the_unordered_and_whose_word_it_is(lab, versions):
    answer = wait_reason(lab, "Deployment/versions/force", "beyond-policy")
    (app,) = answer["containers"]
    assert app["newest"]["name"] == "9.9.9" and app["allowed"] is None
    assert app["list"]["complete"] and "1.4.0_x" in app["list"]["unordered"]["names"]
    assert app["list"]["names"] == 14
    assert app["freshness"]["by"].endswith(", the cache's word")
    code, out, _ = lab.keeld.ctl("why", "Deployment/versions/force")
    assert code == 0 and "9.9.9 is newer" in out and "no order" in out and "the cache's word" in out


def test_v5_a_vote_for_its_digest_lets_a_workload_cross_to_another_stream(lab, versions):
    """9.9.9 lies behind a jump from 2.0.0, and has the content of 1.2.3."""
    workload = "Deployment/versions/newest"
    wait_reason(lab, workload, "stream-jump")
    one = wait_for("somebody is asked", lambda: next(
        (item for item in lab.keeld.get("/v1/approvals") if item["workload"] == workload and not item["archived"]), None))
    assert one["identifier"] == f"{workload}:9.9.9@{versions.pushed['1.2.3'].digest}"
    assert patches(lab, workload, versions.since) == []
    assert lab.keeld.ctl("approve", one["identifier"])[0] == 0
    wait_ended(lab, workload, versions.pushed["1.2.3"].digest)
    assert images(lab, workload) == {"app": lab.image("versions/app:9.9.9")}
    assert patches(lab, workload, versions.since) == [200]
    wait_reason(lab, workload, "up-to-date")


def test_v6_a_digest_newer_than_any_release_is_followed(lab, versions):
    """The latest of a repository with releases stays latest, and its new content is rolled out."""
    wait_reason(lab, "Deployment/versions/latest", "fixed-tag")
    pushed = lab.push("versions/app", "latest", "unreleased")
    wait_ended(lab, "Deployment/versions/latest", pushed.digest)
    assert images(lab, "Deployment/versions/latest") == {"app": lab.image("versions/app:latest")}


def test_v1_a_pin_moves_only_by_the_workloads_own_word(lab, namespace):
    one = lab.push("pinned/app", "1.0.0", "one")
    pinned = f"{lab.image('pinned/app:1.0.0')}@{one.digest}"
    lab.kube.create(deployment(namespace, "app", pinned))
    name = f"Deployment/{namespace}/app"
    wait_rolled_out(lab, name)
    assert wait_reason(lab, name, "pinned")["verdict"] == "blocked"
    since = mark(lab)
    two = lab.push("pinned/app", "1.0.0", "two")
    three = lab.push("pinned/app", "1.1.0", "three")
    lab.kube.patch("deployments", namespace, "app", {"metadata": {"annotations": policy("force")}})
    wait_ended(lab, name, two.digest)
    assert images(lab, name) == {"app": f"{lab.image('pinned/app:1.0.0')}@{two.digest}"}
    lab.kube.patch("deployments", namespace, "app", {"metadata": {"annotations": policy("minor")}})
    wait_ended(lab, name, three.digest)
    assert images(lab, name) == {"app": f"{lab.image('pinned/app:1.1.0')}@{three.digest}"}
    assert patches(lab, name, since) == [200, 200]
    # What keeld wrote itself is nobody's decision: the default may go on from there.
    lab.kube.patch("deployments", namespace, "app", {"metadata": {"annotations": {"keel.sh/policy": None}}})
    four = lab.push("pinned/app", "1.1.0", "four")
    wait_ended(lab, name, four.digest)


def test_p1_p2_a_default_holds_where_nothing_is_written_and_nowhere_else(lab, namespace):
    lab.push("defaults/app", "1.0.0", "one")
    for name, annotations in (("plain", None), ("explicit", policy("patch"))):
        lab.kube.create(deployment(namespace, name, lab.image("defaults/app:1.0.0"), annotations=annotations))
    wait_rolled_out(lab, f"Deployment/{namespace}/plain", f"Deployment/{namespace}/explicit")

    def settings_of(name):
        return container(why(lab, f"Deployment/{namespace}/{name}"), "app")["settings"]["policy"]

    try:
        for default in ("minor", "never", "force"):
            reload(lab, {"defaults": {"policy": default}})
            assert settings_of("plain") == {"value": default, "layer": "default", "overridden": []}
            explicit = settings_of("explicit")
            assert (explicit["value"], explicit["layer"]) == ("patch", "workload annotation")
            assert explicit["overridden"] == [{"value": default, "layer": "default"}]
            verdict = why(lab, f"Deployment/{namespace}/plain")["reason"]
            assert (verdict == "vetoed") == (default == "never")
    finally:
        reload(lab, {"defaults": {"policy": "force"}})


def test_p4_a_workloads_own_policy_enrols_it_where_that_is_configured(lab, namespace):
    one = lab.push("own/app", "latest", "one")
    lab.kube.patch("namespaces", None, namespace, {"metadata": {"labels": {"keel.sh/enrolled": None}}})
    for name, annotations in (("own", policy("force")), ("other", None)):
        lab.kube.create(deployment(namespace, name, lab.image("own/app:latest"), annotations=annotations))
    names = [f"Deployment/{namespace}/{name}" for name in ("own", "other")]
    wait_rolled_out(lab, *names)
    assert one.digest and why(lab, names[0])["reason"] == "not-enrolled"
    try:
        reload(lab, {"enrolment": {"workloadAnnotation": True}})
        answer = wait_reason(lab, names[0], "up-to-date")
        assert answer["enrolled_by"] == "workload annotation keel.sh/policy"
        two = lab.push("own/app", "latest", "two")
        wait_ended(lab, names[0], two.digest)
        assert why(lab, names[1])["reason"] == "not-enrolled" and rollouts(lab, names[1]) == []
    finally:
        reload(lab, {"enrolment": {"workloadAnnotation": False}})


# --- quiet --------------------------------------------------------------------------------------------------------


def test_e1_idle_means_watches_and_the_lease_alone(lab, namespace):
    """Look-ups of tags go on every second meanwhile; the API server hears nothing of them."""
    lab.push("idle/app", "latest", "one")
    lab.kube.create(deployment(namespace, "app", lab.image("idle/app:latest"), 2))
    name = f"Deployment/{namespace}/app"
    wait_rolled_out(lab, name)
    wait_reason(lab, name, "up-to-date")

    def is_quiet(entry):
        return entry["verb"] == "watch" or resource(entry) == "leases"

    def renewals(since):
        times = [time_of(entry["stageTimestamp"]) for entry in requests(lab, since) if entry["verb"] == "update"]
        return (times[-1] - times[0]).total_seconds() if times else 0

    # What belongs to the start of the pods is over once the Lease was renewed twice without anything else.
    def calm():
        since = mark(lab)
        wait_for("a renewal", lambda: renewals(since) > 0, 30, interval=0.2)
        return all(is_quiet(entry) for entry in requests(lab, since))

    wait_for("calm", calm, 60)
    since, looks = mark(lab), metric(lab, "keeld_lookups_total")
    wait_for("a quarter of a minute", lambda: renewals(since) >= 15, 60, interval=0.2)
    assert [entry["requestURI"] for entry in requests(lab, since) if not is_quiet(entry)] == []
    assert metric(lab, "keeld_lookups_total") >= looks + 10


def test_observe_writes_nothing_and_says_everything(lab, namespace):
    lab.push("observed/app", "latest", "one")
    lab.kube.create(deployment(namespace, "app", lab.image("observed/app:latest")))
    name = f"Deployment/{namespace}/app"
    wait_rolled_out(lab, name)
    wait_reason(lab, name, "up-to-date")
    before = fetch(lab, name)
    with settings(lab, {"mode": "observe"}) as since:
        two = lab.push("observed/app", "latest", "two")
        answer = wait_reason(lab, name, "digest-moved")
        assert answer["verdict"] == "roll" and answer["containers"][0]["target"]["digest"] == two.digest
        assert [gate["gate"] for gate in answer["gates"]] == ["observe-only"] and answer["rollout"] is None
        assert "observe-only" in answer["next"]
        assert lab.keeld.get("/v1/status")["mode"] == "observe"
        looks = requests(lab, since)
        assert looks and [item for item in looks if resource(item) == "leases"] == []
        assert writes(lab, since) == []
        as_it_was(lab, before)
    wait_ended(lab, name, two.digest)  # in mode act it is taken up at once
    assert patches(lab, name) == [200]
