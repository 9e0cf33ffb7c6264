"""E3: whoever pulls through a cache with the module gets the same bytes as without it."""

import concurrent.futures
import http.client
import re

import pytest
from cache import Cache, digest_of, push, raw

from lab.registry import ACCEPT, DOCKER_MANIFEST, OCI_MANIFEST
from lab.wait import wait_for


def requests(repository, digest, blob):
    """Many kinds of requests, each as bytes that ask to close."""
    paths = [
        f"/v2/{repository}/manifests/latest", f"/v2/{repository}/manifests/latest?ns=docker.io",
        f"/v2/{repository}/manifests/{digest}", f"/v2/{repository}/manifests/absent",
        f"/v2/{repository}/manifests/sha256-{digest[7:]}.sig", f"/v2/{repository}/manifests/%6catest",
        f"/v2//{repository}/manifests/latest", f"/v2/{repository}/blobs/{blob}", f"/v2/{repository}/tags/list", "/v2/",
        "/v2/_catalog", f"/v2/{repository}/manifests/", "/elsewhere", f"/v2/{repository}/manifests/-bad",
        f"/v2/{repository}/manifests/latest/", f"/v2/{repository}/manifests/la%00test",
    ]  # fmt: skip
    headers = [
        "", f"Accept: {ACCEPT}\r\n", f"Accept: {DOCKER_MANIFEST}\r\n", f"Accept: {OCI_MANIFEST}\r\nAccept: */*\r\n",
        f"Accept: {ACCEPT}\r\nIf-None-Match: \"{digest}\"\r\n", f"Accept: {ACCEPT}\r\nRange: bytes=0-9\r\n",
        f"Accept: {ACCEPT}\r\nAccept-Encoding: gzip\r\nUser-Agent: containerd/1.7\r\n",
    ]  # fmt: skip
    for method in ("GET", "HEAD", "OPTIONS"):
        for path in paths:
            for extra in headers:
                yield f"{method} {path} HTTP/1.1\r\nHost: cache\r\n{extra}Connection: close\r\n\r\n".encode()
    yield b"GET /v2/ HTTP/1.0\r\n\r\n"
    yield f"GET /v2/{repository}/manifests/latest HTTP/1.0\r\nAccept: {ACCEPT}\r\n\r\n".encode()
    yield b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"  # a TLS client on the plain port
    yield b"NONSENSE\r\n\r\n"


def without_dates(answer):
    return re.sub(rb"\r\nDate: [^\r]*", b"\r\nDate:", answer)


SHAPES = {
    "plain": {},
    "unbuffered": {"location": "proxy_buffering off;"},
    "gzip": {"location": "gzip on; gzip_types *; gzip_min_length 1; gzip_proxied any;"},
    "ranges": {"location": "proxy_force_ranges on;"},
    "intercepted": {"location": "proxy_intercept_errors on; error_page 404 = @other;",
                    "server": "location @other { return 418 'other'; }"},
    "cached": {"location": "proxy_cache manifests; proxy_cache_valid any 1m; proxy_cache_key $uri$http_accept;"},
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_e3_every_answer_is_byte_identical(tmp_path, upstream, receiver, shape):
    repository = f"test/transparent-{shape}"
    digest = push(upstream, repository, "latest", "one", "index")
    blob = upstream.put_blob(repository, b"layer" * 10000)
    options = dict(SHAPES[shape])
    answers = []
    for side, more in (("with", {"companion": receiver.url}), ("without", {"module": None})):
        http = f"proxy_cache_path {tmp_path}/{side}-cache keys_zone=manifests:1m use_temp_path=off;"
        with Cache(tmp_path / side, upstream.port, http=http, **options, **more) as nginx:
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                answers.append([without_dates(answer) for answer in
                                pool.map(lambda request: raw(nginx.port, request), requests(repository, digest, blob))])  # fmt: skip
            assert not nginx.complaints()
            if side == "with":
                assert nginx.tag(repository)["digest"] == digest  # the module was at work
    assert len(answers[0]) > 300
    for request, one, other in zip(requests(repository, digest, blob), *answers):
        assert one == other, request


def test_e3_full_zone_fails_no_pull(cache, faulty):
    """Memory is bounded: what does not fit pushes out what was seen longest ago, is counted, and is told rarely."""
    nginx = cache(faulty.port, zone="keel:64k")
    names = [f"t{i:04}" for i in range(400)]
    faulty.tags(**{tag: digest_of(tag) for tag in names})
    for tag in names:
        assert nginx.pull("app", tag).status == 200
    _, state = nginx.api("status")
    kept = nginx.tags()
    assert 20 < state["zone"]["tags"] == len(kept) < 400
    assert int(state["zone"]["evicted"]) == 400 - len(kept)
    assert {tag["name"] for tag in kept.values()} == set(names[-len(kept):])
    assert nginx.counters()["keel_dropped_total"] == 0
    assert 1 <= nginx.errors().count("keel_zone is full") <= 2 + 2  # one a worker and ten seconds


def test_e3_a_megabyte_keeps_2000_tags(cache, faulty):
    """With names of 70 bytes; four digests have their place in each from the start."""
    nginx = cache(faulty.port)
    repository = "library/some-application-of-ours-with-a-name"
    names = [f"t{i:05}" for i in range(2200)]
    assert len("registry.example") + len(repository) + len(names[0]) + 2 <= 70
    faulty.tags(**{tag: digest_of(tag) for tag in names})
    connection = http.client.HTTPConnection("127.0.0.1", nginx.port)
    for tag in names:
        connection.request("HEAD", f"/v2/{repository}/manifests/{tag}", headers={"Accept": ACCEPT})
        assert connection.getresponse().read() == b""
    connection.close()
    kept = nginx.api("status")[1]["zone"]["tags"]
    print(f"{kept} tags in 1 MB")
    assert 2000 <= kept < 2200


def test_e3_evicted_tags_are_no_gap_for_the_receiver(cache, faulty, receiver):
    """A receiver that was away while its tags were pushed out gets what is there, and is not stuck."""
    receiver.behaviour = 503
    nginx = cache(faulty.port, companion=receiver.url, zone="keel:64k")
    names = [f"t{i:04}" for i in range(300)]
    faulty.tags(**{tag: digest_of(tag) for tag in names})
    for tag in names:
        nginx.pull("app", tag)
    receiver.behaviour = 204
    expected = {tag: data["digest"] for tag, data in nginx.tags().items()}
    wait_for("what is left", lambda: {tag: data["digest"] for tag, data in receiver.state().items()} == expected, 30)
    wait_for("up to date", lambda: nginx.api("status")[1]["companions"][0]["acked"] == "300")
    assert nginx.counters()["keel_evicted_unsent_total"] == 300 - len(expected)


def test_e3_long_names_share_a_full_zone(cache, faulty):
    """Entries of other sizes compete for pages: pulls go on, and nothing is corrupted."""
    nginx = cache(faulty.port, zone="keel:64k")
    faulty.answer = lambda method, path: (
        200, {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": digest_of(path.split("?")[0])}, b"{}")  # fmt: skip
    for i in range(300):
        repository = "/".join(["part"] * (1 + i % 48))
        assert nginx.pull(repository, f"t{i}-{'x' * (i % 100)}").status == 200
    for tag in nginx.tags().values():
        assert tag["digest"] == digest_of(f"/v2/{tag['repository']}/manifests/{tag['name']}")
