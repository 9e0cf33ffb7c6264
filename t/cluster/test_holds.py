"""Holds on a real node: kubelet and containerd pull through nginx, and run what a hold names; every client sees the same.

No keeld: holds are written through keel_api on its unix socket, as a person does.
"""

import contextlib
import itertools
import json
import pathlib
import shutil
import subprocess

import pytest
from scene import MARKER, empty

from lab.keeld import UnixConnection
from lab.lab import REGISTRY
from lab.process import program, run
from lab.registry import ACCEPT, DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from lab.third_party import go_program
from lab.wait import wait_for
from lab.workloads import deployment

_count = itertools.count(1)
CRANE = pathlib.Path(__file__).resolve().parents[1] / "crane"


def api(lab, method, path, body=None, revision=None):
    connection = UnixConnection(lab.nginx.api_socket)
    try:
        headers = {"If-Match": revision} if revision else {}
        connection.request(method, f"/keel/{path}", json.dumps(body) if body else None, headers)
        answer = connection.getresponse()
        status, text = answer.status, answer.read()
    finally:
        connection.close()
    assert status == 200, f"{method} {path}: {status} {text}"
    return json.loads(text)


def hold(lab, repository, digest, tag="latest"):
    body = {"digest": digest, "reason": "a test", "until": None}
    api(lab, "PUT", f"holds/{REGISTRY}/{repository}:{tag}", body, api(lab, "GET", "holds")["revision"])


def release(lab, repository, tag="latest"):
    api(lab, "DELETE", f"holds/{REGISTRY}/{repository}:{tag}", revision=api(lab, "GET", "holds")["revision"])


@pytest.fixture
def bystander(lab):
    """A namespace that keeld does not touch."""
    name = f"held-{next(_count)}"
    lab.kube.namespace(name)
    yield name
    empty(lab, name)
    lab.kube.delete("namespaces", None, name)
    for one in api(lab, "GET", "holds")["holds"]:
        api(lab, "DELETE", f"holds/{one['tag']}", revision=api(lab, "GET", "holds")["revision"])


def restart(lab, namespace, name, marker):
    """As kubectl rollout restart does."""
    lab.kube.patch("deployments", namespace, name, {"spec": {"template": {"metadata": {"annotations": {MARKER: marker}}}}})
    lab.kube.wait_rolled_out(namespace, name)
    wait_for("the old pods gone", lambda: len(lab.kube.list("pods", namespace)) == 2, 60)


def template(lab, namespace, name):
    """The pod template without the mark of a restart."""
    found = lab.kube.get("deployments", namespace, name)["spec"]["template"]
    found["metadata"].get("annotations", {}).pop(MARKER, None)
    if not found["metadata"].get("annotations"):
        found["metadata"].pop("annotations", None)
    return found


def runs(lab, namespace):
    """{(digest that the kubelet tells, config, what the content says of itself)} of all running pods."""
    told = {status["imageID"].rsplit("@", 1)[1] for pod in lab.kube.list("pods", namespace)
            for status in pod["status"]["containerStatuses"]}  # fmt: skip
    containers = lab.running(namespace)
    assert len(containers) == 2
    return told, {one["config"] for one in containers}, {lab.content(one) for one in containers}


def test_a_held_tag_is_what_a_node_runs_until_it_is_released(lab, bystander):
    one = lab.push("held/app", "latest", "one")
    lab.kube.create(deployment(bystander, "app", lab.image("held/app:latest"), 2))
    lab.kube.wait_rolled_out(bystander, "app")
    assert runs(lab, bystander) == ({one.digest}, {one.config}, {"one"})
    before = template(lab, bystander, "app")

    hold(lab, "held/app", one.digest)
    two = lab.push("held/app", "latest", "two")
    assert lab.upstream.digest("held/app", "latest") == two.digest != one.digest
    restart(lab, bystander, "app", "held")
    assert runs(lab, bystander) == ({one.digest}, {one.config}, {"one"})
    assert template(lab, bystander, "app") == before
    assert lab.upstream.digest("held/app", "latest") == two.digest

    release(lab, "held/app")
    restart(lab, bystander, "app", "released")
    assert runs(lab, bystander) == ({two.digest}, {two.config}, {"two"})
    assert template(lab, bystander, "app") == before


def test_a_hold_also_goes_forward_to_what_the_tag_is_not_yet(lab, bystander):
    """A node that has the old content runs the held one, of another tag, after a restart."""
    lab.push("held/ahead", "latest", "now")
    lab.kube.create(deployment(bystander, "app", lab.image("held/ahead:latest"), 2))
    lab.kube.wait_rolled_out(bystander, "app")
    ahead = lab.push("held/ahead", "next", "next")
    hold(lab, "held/ahead", ahead.digest)
    restart(lab, bystander, "app", "held")
    assert runs(lab, bystander) == ({ahead.digest}, {ahead.config}, {"next"})


def test_a_held_digest_that_is_gone_from_everywhere_is_counted_and_told(lab, bystander):
    """Deleted by its owner and collected in the cache: no node gets it, and a hold does not bring it back."""
    repository = f"held/{bystander}"
    tag = lab.image(f"{repository}:latest")
    one = lab.push(repository, "latest", "one")
    lab.kube.create(deployment(bystander, "app", tag, 1))
    lab.kube.wait_rolled_out(bystander, "app")
    hold(lab, repository, one.digest)
    wait_for("keeld knows of it", lambda: tag in [item["tag"] for item in lab.keeld.get("/v1/holds")["items"]], 10)
    two = lab.push(repository, "latest", "two")
    lab.upstream.delete_manifest(repository, one.digest)
    shutil.rmtree(lab.through.folder / "through/docker/registry/v2/repositories" / repository)

    def waits():
        """The pod that cannot pull; the one before it stays."""
        pods = lab.kube.pods(bystander, "app")
        told = [status["state"].get("waiting", {}).get("reason", "") for pod in pods
                for status in pod["status"].get("containerStatuses", [])]  # fmt: skip
        return len(pods) == 2 and {"ErrImagePull", "ImagePullBackOff"} & set(told)

    lab.kube.patch("deployments", bystander, "app", {"spec": {"template": {"metadata": {"annotations": {MARKER: "gone"}}}}})
    wait_for("the kubelet cannot pull", waits, 60)
    counted = next(item for item in api(lab, "GET", "holds")["holds"] if item["tag"] == tag)
    assert int(counted["unfetchable"]) > 0 and counted["ineffective"] == "0"

    def told():
        return [one for one in lab.keeld.get("/v1/status")["problems"] if one["code"] == "hold-unfetchable" and tag in one["text"]]

    problem = wait_for("keeld tells of it", told, 40)[0]
    assert "bring the digest back upstream" in problem["next"]
    code, out, _ = lab.keeld.ctl("status")
    assert code == 1 and tag in out and "was not answered with a manifest" in out

    release(lab, repository)
    lab.kube.wait_rolled_out(bystander, "app", deadline=120)
    wait_for("the newest runs", lambda: [lab.content(found) for found in lab.running(bystander)] == ["two"], 60)
    assert two.digest in {status["imageID"].rsplit("@", 1)[1] for pod in lab.kube.pods(bystander, "app")
                          for status in pod["status"]["containerStatuses"]}  # fmt: skip
    wait_for("and no longer", lambda: not told(), 40)


# --- what clients see ---

# Accept as each of them sends it.
CLIENTS = {
    "containerd": {"User-Agent": "containerd/1.6.20~ds1", "Accept": ACCEPT},
    "skopeo": {"User-Agent": "skopeo/1.9.3", "Accept": ", ".join([OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX, DOCKER_LIST,
               "application/vnd.docker.distribution.manifest.v1+prettyjws", "application/vnd.docker.distribution.manifest.v1+json"])},
    "podman": {"User-Agent": "containers/5.23.1", "Accept": ", ".join([OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX, DOCKER_LIST])},
    "crane": {"User-Agent": "go-containerregistry/v0.20.6", "Accept": ",".join([DOCKER_MANIFEST, OCI_MANIFEST, DOCKER_LIST, OCI_INDEX])},
    "none": {},
}  # fmt: skip


@pytest.fixture
def held(lab, bystander):
    """(old, new): the digests of a tag that is held at the old one."""
    old = lab.push("held/clients", "latest", "old")
    new = lab.push("held/clients", "latest", "new")
    hold(lab, "held/clients", old.digest)
    return old, new


@pytest.mark.parametrize("client", CLIENTS)
def test_the_answer_for_a_held_tag_is_the_one_for_the_digest(lab, held, client):
    old, _ = held
    nginx = lab.nginx.through(REGISTRY)
    for method in ("HEAD", "GET"):
        for more in ({}, {"If-None-Match": f'"{old.digest}"'}, {"Accept-Encoding": "gzip"}, {"Range": "bytes=0-9"}):
            answers = []
            for reference in ("latest", old.digest):
                status, headers, body = nginx.request(
                    method, f"/v2/held/clients/manifests/{reference}?ns={REGISTRY}", headers={**CLIENTS[client], **more})  # fmt: skip
                told = headers.get_all("X-Keel-Hold")
                answers.append((status, sorted((k, v) for k, v in headers.items() if k not in ("Date", "X-Keel-Hold")), body))
                assert told == ([old.digest] if reference == "latest" else None)
            assert answers[0] == answers[1]


def test_clients_take_the_held_digest_for_the_tags_own(lab, held, tmp_path):
    old, new = held
    place = f"127.0.0.1:{lab.nginx.nodes[REGISTRY]}/held/clients"
    by_tag, by_digest = f"{place}:latest", f"{place}@{old.digest}"

    def skopeo(reference, *words):
        return run(program("skopeo"), "--insecure-policy", "inspect", "--tls-verify=false", *words, f"docker://{reference}")

    assert skopeo(by_tag, "--raw") == skopeo(by_digest, "--raw")
    assert json.loads(skopeo(by_tag))["Digest"] == old.digest
    assert skopeo(by_tag, "--config") == skopeo(by_digest, "--config")

    crane = go_program(CRANE, "crane")
    first, second = run(crane, by_tag, by_digest).splitlines()
    assert first == second and first.split()[:2] == [old.digest, old.digest]
    assert bytes.fromhex(first.split()[2]) == lab.upstream.manifest("held/clients", old.digest).body

    policy = tmp_path / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    podman = [program("podman"), "--root", lab.folder / "podman", "--runroot", lab.folder / "podman-run", "--storage-driver", "vfs"]
    pulled = [run(*podman, "pull", "--quiet", "--tls-verify=false", "--signature-policy", policy, reference, deadline=120).strip()
              for reference in (by_tag, by_digest)]  # fmt: skip
    assert pulled[0] == pulled[1] == old.config.removeprefix("sha256:")
    shown = json.loads(run(*podman, "image", "inspect", by_tag))[0]
    assert shown["Digest"] == old.digest
    assert new.digest not in json.dumps(shown)

    containerd = lab.node.containerd
    certs = containerd.folder / "certs.d"
    names = [f"{REGISTRY}/held/clients:latest", f"{REGISTRY}/held/clients@{old.digest}"]
    try:
        for name in names:
            containerd.ctr("images", "pull", "--hosts-dir", certs, name, deadline=60)
        listed = {words[0]: words[2] for words in map(str.split, containerd.ctr("images", "list").splitlines()[1:])}
        assert [listed[name] for name in names] == [old.digest, old.digest]
    finally:
        with contextlib.suppress(AssertionError):
            containerd.ctr("images", "remove", *names)


def test_what_keeld_looks_up_is_the_registrys_own(lab, held):
    """Past the hold, on the server that is for that."""
    old, new = held
    answer = subprocess.run([program("curl"), "-sI", "-H", f"Accept: {ACCEPT}", "-A", "keeld/0",
                             f"{lab.nginx.lookup_url}/v2/held/clients/manifests/latest?ns={REGISTRY}"],
                            capture_output=True, text=True, timeout=30).stdout.lower()  # fmt: skip
    assert f"docker-content-digest: {new.digest}" in answer and "x-keel-hold" not in answer
    assert old.digest not in answer
