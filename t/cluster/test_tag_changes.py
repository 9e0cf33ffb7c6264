"""From a newer tag to proven pods: written by name, spelled as before, nothing beside it, once. The API server's audit log
is a witness, with every byte that keeld wrote.
"""

import types

import pytest

from lab.cut import HOLD, PASS
from lab.lab import REGISTRY
from lab.stage import Ledger
from lab.wait import wait_for
from lab.workloads import cronjob, daemonset, deployment, statefulset
from scene import (
    ENROLLED, MARKER, container, empty, entries, fetch, mark, name_of, owned, patches, reached, rollouts, wait_ended,
    wait_reason, wait_rolled_out, wait_why, why, writes,
)  # fmt: skip
from test_rollouts import by_hand, running, template

OLD, NEW, BEYOND = "1.0.0", "1.1.0", "2.0.0"
MINOR = {"keel.sh/policy": "minor"}
SPELLINGS = {
    "short": "tagged",
    "host": "docker.io/tagged",
    "library": "docker.io/library/tagged",
    "index": "index.docker.io/library/tagged",
    "other": f"{REGISTRY}/team/tagged",
    "port": f"{REGISTRY}:5000/team/tagged",
}


def at(tag, spellings):
    return {name: f"{text}:{tag}" for name, text in spellings.items()}


def images(item):
    """{container: image}, image volumes by the names that keeld has for them."""
    spec = template(item["spec"])["spec"]
    found = {one["name"]: one["image"] for one in [*spec.get("initContainers", []), *spec["containers"]]}
    volumes = {one["name"]: one["image"] for one in spec.get("volumes", []) if "image" in one}
    return found | {f"volume/{name}": image["reference"] for name, image in volumes.items()}


def without_images(item):
    """Everything of a workload that people write, but for the images."""
    kept = by_hand(item)
    spec = template(kept["spec"])["spec"]
    for one in [*spec.get("initContainers", []), *spec["containers"]]:
        del one["image"]
    return kept


def bodies(lab, workload, since=0):
    """What keeld's patches of a workload said, each without the state of the object that it is for."""
    kind, namespace, name = workload.split("/")
    found = []
    for entry in writes(lab, since):
        about = entry["objectRef"]
        if (about["namespace"], about["name"]) == (namespace, name) and about["resource"] == f"{kind.lower()}s":
            body = entry["requestObject"]
            meta = body.pop("metadata")
            assert set(meta) == {"uid", "resourceVersion"} and all(meta.values())
            found.append(body)
    return found


# --- one wave: every kind of workload, one newer tag -------------------------------------------------------------


@pytest.fixture(scope="module")
def wave(lab):
    """Workloads of all kinds before and after there were newer tags."""
    ns = "tags"
    lab.kube.namespace(ns, labels=ENROLLED)
    repositories = ["library/tagged", "team/tagged", "team/first"]
    one = {name: lab.push(name, OLD, "one") for name in repositories}
    steady = lab.push("team/level", "1", "steady")
    app, first = lab.image(f"team/tagged:{OLD}"), lab.image(f"team/first:{OLD}")
    with_init = MINOR | {"keel.sh/initContainers": "true"}
    spelled = deployment(ns, "spelled", "", annotations=with_init | {"somebody": "else's"}, init={"first": first},
                         containers=at(OLD, SPELLINGS) | {"beside": lab.image("team/level:1")})  # fmt: skip
    rolling = [
        spelled,
        deployment(ns, "pair", app, 2, annotations=MINOR),
        deployment(ns, "kept", app, annotations=MINOR, pull="IfNotPresent"),
        deployment(ns, "init-stays", app, annotations=MINOR, init={"first": first}),
        statefulset(ns, "set", app, annotations=MINOR | {"keel.sh/stateful": "allow"}),
        daemonset(ns, "every", app, annotations=MINOR),
    ]
    nightly = cronjob(ns, "nightly", app, annotations=MINOR)
    standing = [
        deployment(ns, "digest-only", app),
        deployment(ns, "zero", app, 0, annotations=MINOR),
    ]
    for item in [*rolling, nightly, *standing]:
        lab.kube.create(item)
    names = [name_of(item) for item in rolling]
    wait_rolled_out(lab, *names, name_of(standing[0]))
    for name in [*names, name_of(standing[0])]:
        wait_reason(lab, name, "up-to-date")
    everything = [*names, name_of(nightly), *[name_of(item) for item in standing]]
    before = {name: fetch(lab, name) for name in everything}
    since = mark(lab)
    two = {name: lab.push(name, NEW, "two") for name in repositories}
    for name in repositories:
        lab.push(name, BEYOND, "beyond")
    for repository in repositories:
        wait_ended(lab, name_of(spelled), two[repository].digest)
    for name in names:
        wait_ended(lab, name, two["team/tagged"].digest)
    wait_ended(lab, name_of(nightly), two["team/tagged"].digest)
    wait_rolled_out(lab, *names)
    yield types.SimpleNamespace(
        ns=ns, one=one, two=two, steady=steady, names=names, nightly=name_of(nightly), before=before, since=since,
        standing=[name_of(item) for item in standing],
    )  # fmt: skip
    empty(lab, ns)
    lab.kube.delete("namespaces", None, ns)


def test_v1_another_tag_keeps_every_spelling(lab, wave):
    """Registry and repository byte for byte; the container beside them, whose tag has no newer one, as it was."""
    now = fetch(lab, f"Deployment/{wave.ns}/spelled")
    first = {"first": lab.image(f"team/first:{NEW}"), "beside": lab.image("team/level:1")}
    assert images(now) == at(NEW, SPELLINGS) | first
    for name in [*wave.names, wave.nightly]:
        assert without_images(fetch(lab, name)) == without_images(wave.before[name]), name


def test_o6_the_patch_names_containers_and_nothing_else(lab, wave):
    """One repository's newer tag may be known before another's: then it takes more than one patch, each container once."""
    named = {"initContainers": [], "containers": []}
    for body in bodies(lab, f"Deployment/{wave.ns}/spelled", wave.since):
        pod = body["spec"]["template"]["spec"]
        assert body == {"spec": {"template": {"spec": pod}}} and set(pod) <= set(named)
        for kind, items in pod.items():
            named[kind] += items
    spelled = at(NEW, SPELLINGS)
    assert sorted(named["containers"], key=str) == sorted(
        [{"name": name, "image": spelled[name]} for name in spelled], key=str
    )
    assert named["initContainers"] == [{"name": "first", "image": lab.image(f"team/first:{NEW}")}]
    alone = {"template": {"spec": {"containers": [{"name": "app", "image": lab.image(f"team/tagged:{NEW}")}]}}}
    for name in [one for one in wave.names if not one.endswith("spelled")]:
        assert bodies(lab, name, wave.since) == [{"spec": alone}], name
    assert bodies(lab, wave.nightly, wave.since) == [{"spec": {"jobTemplate": {"spec": alone}}}]
    assert {entry["verb"] for entry in writes(lab, wave.since)} == {"patch"}


def test_p5_keeld_owns_image_fields_alone(lab, wave):
    for name in [*wave.names, wave.nightly]:
        now = fetch(lab, name)
        changed = {one for one, image in images(now).items() if image != images(wave.before[name])[one]}
        assert {path[-1] for path in owned(now)} == {"f:image"}, name
        assert {path[-2] for path in owned(now)} == {f'k:{{"name":"{one}"}}' for one in changed}, name
        assert MARKER not in (template(now["spec"])["metadata"].get("annotations") or {}), name


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet"])
def test_r1_every_new_pod_runs_the_newer_tag(lab, wave, kind):
    name = {"Deployment": "pair", "StatefulSet": "set", "DaemonSet": "every"}[kind]
    found = running(lab, f"{kind}/{wave.ns}/{name}")
    assert len(found) == (2 if name == "pair" else 1)
    two = wave.two["team/tagged"]
    assert {(item["digest"], item["config"]) for item in found} == {(two.digest, two.config)}
    (rollout,) = rollouts(lab, f"{kind}/{wave.ns}/{name}")
    assert (rollout["state"], rollout["reason"]) == ("done", "proven")
    (target,) = rollout["targets"]
    assert (target["from_image"], target["image"]) == (lab.image(f"team/tagged:{OLD}"), lab.image(f"team/tagged:{NEW}"))
    assert (target["tag"], target["to"]) == (lab.image(f"team/tagged:{NEW}"), two.digest)


def test_r1_every_container_moves_once(lab, wave):
    name = f"Deployment/{wave.ns}/spelled"
    moved = {one: wave.two["team/tagged" if one in ("other", "port") else "library/tagged"].digest for one in SPELLINGS}
    found = {item["container"]: item["digest"] for item in running(lab, name)}
    assert found == moved | {"beside": wave.steady.digest}
    written = [(one["container"], one["to"]) for row in rollouts(lab, name) for one in row["targets"] if one.get("image")]
    assert sorted(written) == sorted((moved | {"first": wave.two["team/first"].digest}).items())
    answer = wait_why(lab, name, "is current", lambda told: told["verdict"] == "current")
    assert {container(answer, one)["reason"] for one in moved} == {"beyond-policy"}


def test_r1_the_tag_of_an_init_container_changes_only_where_it_may(lab, wave):
    name = f"Deployment/{wave.ns}/init-stays"
    assert images(fetch(lab, name)) == {
        "first": lab.image(f"team/first:{OLD}"),
        "app": lab.image(f"team/tagged:{NEW}"),
    }
    assert container(why(lab, name), "first")["verdict"] == "current"


def test_r1_a_cronjob_is_written_and_not_called_proven(lab, wave):
    """No run of it has pulled the newer tag yet, and none is started for it."""
    assert images(fetch(lab, wave.nightly)) == {"app": lab.image(f"team/tagged:{NEW}")}
    (rollout,) = rollouts(lab, wave.nightly)
    assert (rollout["state"], rollout["reason"]) == ("done", "at-next-run") and "proven by nothing" in rollout["text"]
    assert not [item for item in entries(lab, workload=wave.nightly) if item["kind"] == "verified"]
    assert lab.kube.list("jobs", wave.ns) == []
    assert wait_reason(lab, wave.nightly, "at-next-run")["verdict"] == "current"


def test_v1_a_digest_policy_never_changes_the_tag(lab, wave):
    for name in wave.standing:
        now = fetch(lab, name)
        assert now["metadata"]["generation"] == wave.before[name]["metadata"]["generation"], name
        assert images(now) == images(wave.before[name]) and not patches(lab, name), name


def test_d7_history_tells_both_images(lab, wave):
    name = f"DaemonSet/{wave.ns}/every"
    told = f"app: {lab.image(f'team/tagged:{OLD}')} → {lab.image(f'team/tagged:{NEW}')}"
    lines = [item for item in entries(lab, workload=name) if item["to"] == wave.two["team/tagged"].digest]
    kinds = [item["kind"] for item in lines]
    assert kinds == ["decided", "intended", "applied", "verified", "outcome"]
    assert [item["text"] for item in lines][1:3] == [told, told]
    assert {item["tag"] for item in lines} == {lab.image(f"team/tagged:{NEW}")}
    for command in (["history", name], ["rollouts", name]):
        code, out, _ = lab.keeld.ctl(*command)
        assert code == 0 and told in out, command


# --- what does not go well -----------------------------------------------------------------------------------------


def test_r4_a_bad_newer_tag_is_rejected_and_not_tried_again(lab, namespace):
    """Rejected with its digest; not written again after somebody set it back, nor after a restart of keeld; the next is."""
    lab.push("bad/tagged", OLD, "one")
    item = deployment(namespace, "app", lab.image(f"bad/tagged:{OLD}"), annotations=MINOR, probe=True,
                      spec={"progressDeadlineSeconds": 6})  # fmt: skip
    lab.kube.create(item)
    name = f"Deployment/{namespace}/app"
    wait_rolled_out(lab, name)
    wait_reason(lab, name, "up-to-date")
    bad = lab.push("bad/tagged", NEW, "bad", entrypoint=["/bin/false"])
    failed = wait_ended(lab, name, bad.digest, "failed")
    assert failed["reason"] == "content" and "is not well" in failed["text"]
    wait_reason(lab, name, "target-rejected")
    back = [{"name": "app", "image": lab.image(f"bad/tagged:{OLD}")}]
    lab.kube.patch("deployments", namespace, "app", {"spec": {"template": {"spec": {"containers": back}}}}, "strategic")
    wait_rolled_out(lab, name)
    lab.keeld.restart()
    answer = wait_why(lab, name, "names the old tag", lambda told: told["containers"][0]["reference"] == back[0]["image"]
                      and told["reason"] == "target-rejected")  # fmt: skip
    assert answer["verdict"] == "blocked"
    assert patches(lab, name) == [200]
    good = lab.push("bad/tagged", "1.1.1", "good")
    wait_ended(lab, name, good.digest)
    assert patches(lab, name) == [200, 200]
    assert images(fetch(lab, name)) == {"app": lab.image("bad/tagged:1.1.1")}


# --- without a kubelet: at the worst moment -------------------------------------------------------------------------


def newer(stage, namespace, repository, annotations=MINOR, tag=OLD, to=NEW):
    """A Deployment `app` on repository:tag that is current, and then a newer tag; returns both digests."""
    if not stage.kube.get("namespaces", None, namespace):
        stage.kube.namespace(namespace, labels=ENROLLED)
    first = stage.move(repository, tag)
    stage.kube.create(deployment(namespace, "app", stage.image(f"{repository}:{tag}"), annotations=annotations))
    stage.kube.wait_rolled_out(namespace, "app")
    stage.wait_current(namespace, "app", first)
    return first, stage.move(repository, to) if to else None


def test_r1_a_tag_that_moves_between_gate_and_write(stage):
    """Written as intended, superseded when it is seen, and never called a failure; its pods run what is newest."""
    ns, repository = "tag-moves", "tag-moves/app"
    name = f"Deployment/{ns}/app"
    newer(stage, ns, repository, to=None)
    stage.proxy.opened.clear()
    stage.proxy.rule = lambda request: HOLD if request.method == "PATCH" else PASS
    two = stage.move(repository, NEW)
    wait_for("a held patch", lambda: stage.proxy.seen("PATCH", f"/{ns}/", HOLD))
    three = stage.move(repository, NEW)
    stage.proxy.rule = lambda request: PASS
    stage.proxy.opened.set()
    wait_ended(stage, name, two, "superseded")
    stage.wait_current(ns, "app", three)
    assert images(fetch(stage, name)) == {"app": stage.image(f"{repository}:{NEW}")}
    assert not [row for row in rollouts(stage, name) if row["state"] == "failed"]
    assert bodies(stage, name)[0]["spec"]["template"]["spec"]["containers"][0]["image"].endswith(f":{NEW}")


def test_o5_what_somebody_set_back_is_not_written_again(stage):
    ns, repository = "tag-back", "tag-back/app"
    name = f"Deployment/{ns}/app"
    _, two = newer(stage, ns, repository)
    wait_ended(stage, name, two)
    back = {"spec": {"template": {"spec": {"containers": [{"name": "app", "image": stage.image(f"{repository}:{OLD}")}]}}}}
    stage.kube.patch("deployments", ns, "app", back, "strategic", manager="somebody")
    stage.kube.wait_rolled_out(ns, "app")
    answer = wait_reason(stage, name, "rollout-stalled")
    assert answer["verdict"] == "blocked" and f"→ {stage.image(f'{repository}:{NEW}')}" in answer["sentence"]
    stage.keeld.restart()
    wait_reason(stage, name, "rollout-stalled")
    assert patches(stage, name) == [200]
    three = stage.move(repository, "1.2.0")
    wait_ended(stage, name, three)
    assert patches(stage, name) == [200, 200]


def test_o1_an_image_that_somebody_else_declares_is_not_written(stage):
    """By the API server's managedFields, of a client's apply and of an update, or by the label; a digest is followed."""
    ns, repository = "declared", "declared/app"
    stage.kube.namespace(ns, labels=ENROLLED)
    first = stage.move(repository, OLD)
    labels = {"chart": {"app.kubernetes.io/managed-by": "Helm"}}
    for name in ("applied", "updated", "chart", "plain", "released"):
        item = deployment(ns, name, stage.image(f"{repository}:{OLD}"), annotations=MINOR)
        item["metadata"].setdefault("labels", {}).update(labels.get(name, {}))
        if name == "applied":
            path = stage.kube.path("deployments", ns, name, fieldManager="argocd-controller", force="true")
            stage.kube.call("PATCH", path, item, content_type="application/apply-patch+yaml")
        else:
            manager = "lab" if name in ("plain", "chart") else "HashiCorp"
            stage.kube.call("POST", stage.kube.path("deployments", ns, fieldManager=manager), item)
    release = {"metadata": {"annotations": {"keel.sh/second-owner": "allow"}}}
    stage.kube.patch("deployments", ns, "released", release)
    names = {name: f"Deployment/{ns}/{name}" for name in ("applied", "updated", "chart", "plain", "released")}
    for name, workload in names.items():
        stage.kube.wait_rolled_out(ns, name)
        stage.wait_current(ns, name, first)
    two = stage.move(repository, NEW)
    for name in ("plain", "released"):
        wait_ended(stage, names[name], two)
    for name, owner in (("applied", "argocd-controller"), ("updated", "HashiCorp"), ("chart", "Helm")):
        answer = wait_reason(stage, names[name], "second-owner")
        assert answer["verdict"] == "blocked" and owner in answer["sentence"], answer
        assert patches(stage, names[name]) == []
    moved = stage.move(repository, OLD)
    for name in ("applied", "updated", "chart"):
        wait_ended(stage, names[name], moved)
        assert images(fetch(stage, names[name])) == {"app": stage.image(f"{repository}:{OLD}")}
        assert patches(stage, names[name]) == [200]


def test_v1_pins_move_only_where_somebody_said_so(stage):
    """An explicit tag policy moves tag and digest; force replaces the digest alone; a default does neither, but for what
    keeld itself wrote.
    """
    ns, repository = "tag-pins", "tag-pins/app"
    stage.kube.namespace(ns, labels=ENROLLED)
    one, other = stage.move(repository, OLD), stage.move(repository, "stable")
    pinned = {
        "moves": (f"{repository}:{OLD}@{one}", MINOR),
        "follows": (f"{repository}:stable@{other}", {"keel.sh/policy": "force"}),
        "stays": (f"{repository}:stable@{other}", {}),
    }
    for name, (image, annotations) in pinned.items():
        stage.kube.create(deployment(ns, name, stage.image(image), annotations=annotations))
    for name in pinned:
        stage.kube.wait_rolled_out(ns, name)
        wait_reason(stage, f"Deployment/{ns}/{name}", "pinned" if name == "stays" else "up-to-date")
    two, next_stable = stage.move(repository, NEW), stage.move(repository, "stable")
    wait_ended(stage, f"Deployment/{ns}/moves", two)
    wait_ended(stage, f"Deployment/{ns}/follows", next_stable)
    wait_reason(stage, f"Deployment/{ns}/stays", "pinned")
    now = {name: images(fetch(stage, f"Deployment/{ns}/{name}"))["app"] for name in pinned}
    assert now == {
        "moves": stage.image(f"{repository}:{NEW}@{two}"),
        "follows": stage.image(f"{repository}:stable@{next_stable}"),
        "stays": stage.image(pinned["stays"][0]),
    }
    # What keeld wrote is not somebody's decision: the default policy goes on from it, also after a restart.
    stage.kube.patch("deployments", ns, "follows", {"metadata": {"annotations": {"keel.sh/policy": None}}})
    stage.keeld.restart()
    last = stage.move(repository, "stable")
    wait_ended(stage, f"Deployment/{ns}/follows", last)
    assert wait_reason(stage, f"Deployment/{ns}/stays", "pinned")["verdict"] == "blocked"
    assert patches(stage, f"Deployment/{ns}/stays") == []


def test_v2_what_was_built_before_what_runs_or_for_other_nodes_is_not_written(stage):
    """By what the images themselves say. The next lower tag is taken where there is one; else nothing is written."""
    older, elsewhere = {"created": "2001-02-03T04:05:06Z"}, {"platform": ("linux", "s390x")}
    cases = {"older-build": older, "incomplete": elsewhere}
    for reason, claims in cases.items():
        newer(stage, reason, f"{reason}/app", to=None)
        stage.move(f"{reason}/app", NEW, **claims)
    newer(stage, "next-lower", "next-lower/app", to=None)
    for tag, claims in [("1.3.0", elsewhere), ("1.2.0", older)]:
        stage.move("next-lower/app", tag, **claims)
    wait_reason(stage, "Deployment/next-lower/app", "older-build")
    for reason, words in {"older-build": "was built 2001-02-03", "incomplete": "not made for linux/amd64"}.items():
        answer = wait_reason(stage, f"Deployment/{reason}/app", reason)
        assert answer["verdict"] == "blocked" and NEW in answer["sentence"] and words in answer["sentence"]
    fit = stage.move("next-lower/app", NEW)
    wait_ended(stage, "Deployment/next-lower/app", fit)
    assert images(fetch(stage, "Deployment/next-lower/app")) == {"app": stage.image(f"next-lower/app:{NEW}")}
    assert patches(stage, "Deployment/next-lower/app") == [200]
    for reason in cases:
        assert why(stage, f"Deployment/{reason}/app")["reason"] == reason
        assert patches(stage, f"Deployment/{reason}/app") == []


def test_v2_a_digest_that_moves_to_an_image_for_other_nodes_is_not_rolled(stage):
    """An image without an index: only its config says what it is made for. The next one for its nodes is taken."""
    ns, repository = "for-others", "for-others/app"
    name = f"Deployment/{ns}/app"
    newer(stage, ns, repository, annotations={}, to=None)
    stage.move(repository, OLD, platform=("linux", "s390x"))
    answer = wait_reason(stage, name, "target-not-pullable")
    assert answer["verdict"] == "blocked" and "holds nothing for linux/amd64" in answer["sentence"]
    assert patches(stage, name) == []
    fit = stage.move(repository, OLD)
    wait_ended(stage, name, fit)
    assert patches(stage, name) == [200]


def test_r1_image_volumes_are_never_called_proven(stage):
    """Their tag changes where keel.sh/imageVolumes says so, by the volume's name, which may be a container's too."""
    ns = "tag-volumes"
    stage.kube.namespace(ns, labels=ENROLLED)
    data = stage.move(f"{ns}/data", OLD)
    app = stage.move(f"{ns}/app", "latest")
    assert data and app

    def with_volume(name, annotations):
        item = deployment(ns, name, stage.image(f"{ns}/app:latest"), annotations=annotations)
        spec = item["spec"]["template"]["spec"]
        image = {"reference": stage.image(f"{ns}/data:{OLD}"), "pullPolicy": "Always"}
        spec["volumes"] = [{"name": "scratch", "emptyDir": {}}, {"name": "app", "image": image}]
        spec["containers"][0]["volumeMounts"] = [{"name": "app", "mountPath": "/data"}]
        stage.kube.create(item)
        stage.kube.wait_rolled_out(ns, name)
        return f"Deployment/{ns}/{name}"

    moves = with_volume("moves", MINOR | {"keel.sh/imageVolumes": "true"})
    stays = with_volume("stays", MINOR)
    before = fetch(stage, moves)
    for name in (moves, stays):
        told = container(wait_why(stage, name, "is known", lambda answer: answer["verdict"] == "current"), "volume/app")
        assert told["volume"] and told["running"] == [] and told["reason"] == "at-next-start"
    two = stage.move(f"{ns}/data", NEW)
    ended = wait_ended(stage, moves, two)
    assert ended["reason"] == "unproven" and "volume/app is not in their status" in ended["text"]
    assert not [item for item in entries(stage, workload=moves) if item["kind"] == "verified"]
    volume = {"name": "app", "image": {"reference": stage.image(f"{ns}/data:{NEW}")}}
    assert bodies(stage, moves) == [{"spec": {"template": {"spec": {"volumes": [volume]}}}}]
    after, expected = fetch(stage, moves), by_hand(before)
    expected["spec"]["template"]["spec"]["volumes"][1]["image"]["reference"] = volume["image"]["reference"]
    assert by_hand(after) == expected
    wait_why(stage, stays, "stays", lambda answer: NEW in container(answer, "volume/app")["sentence"])
    assert patches(stage, stays) == [] and reached(ended) == [two]


def test_d7_the_intent_holds_what_is_written(stage):
    """Its row is on disk before the patch leaves, with the very text that the API server gets."""
    ns, repository = "tag-intent", "tag-intent/app"
    name = f"Deployment/{ns}/app"
    newer(stage, ns, repository, to=None)
    stage.proxy.opened.clear()
    stage.proxy.rule = lambda request: HOLD if request.method == "PATCH" else PASS
    two = stage.move(repository, NEW)
    wait_for("a held patch", lambda: stage.proxy.seen("PATCH", f"/{ns}/", HOLD))
    (row,) = [row for row in Ledger(stage.keeld.ledger).rollouts() if row["workload"] == name]
    assert (row["state"], row["marker"], row["applied"]) == ("intended", "", 0)
    (target,) = row["targets"]
    assert (target["from_image"], target["image"]) == tuple(stage.image(f"{repository}:{tag}") for tag in (OLD, NEW))
    assert images(fetch(stage, name)) == {"app": target["from_image"]}
    stage.proxy.rule = lambda request: PASS
    stage.proxy.opened.set()
    wait_ended(stage, name, two)
    assert images(fetch(stage, name)) == {"app": target["image"]}
