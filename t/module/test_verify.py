"""keel_verify: the digest of a body that passes, where the registry names none or a wrong one."""

import gzip
import hashlib
import http.client
import socket
import threading

import pytest
from cache import REGISTRY, digest_of, get, push

from lab.registry import ACCEPT, OCI_INDEX, OCI_MANIFEST, sha256
from lab.wait import wait_for

MANIFEST = b'{"schemaVersion": 2, "layers": [' + b'"x", ' * 4000 + b'"x"]}'
DIGEST = sha256(MANIFEST)
TYPE = {"Content-Type": OCI_MANIFEST}
HASHED = "keel_hashed_bodies_total"


def body(content=MANIFEST, **headers):
    """An upstream's answer to everything, without a digest unless one is given."""
    more = {key.replace("_", "-"): value for key, value in headers.items()}
    return lambda method, path: (200, {**TYPE, **more}, content)


class Socket:
    """An upstream that sends exactly these bytes to each request and then closes the connection, or holds it open."""

    def __init__(self, answer, hold=None):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.answer, self.hold = answer, hold
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                request = b""
                while b"\r\n\r\n" not in request:
                    request += connection.recv(65536)
                connection.sendall(self.answer)
                if self.hold:
                    self.hold.wait(30)

    def close(self):
        self.listener.close()


@pytest.fixture
def raw_upstream():
    made = []

    def make(*words, **options):
        made.append(Socket(*words, **options))
        return made[-1]

    yield make
    for server in made:
        server.close()


# --- missing, the default ---


@pytest.mark.parametrize("location", ["", "proxy_buffering off;", "gzip on; gzip_types *; gzip_min_length 1; gzip_proxied any;",
                                      "sub_filter x y; sub_filter_types *;"])  # fmt: skip
def test_body_without_a_digest_header_is_hashed(cache, faulty, location):
    nginx = cache(faulty.port, location=location)
    faulty.answer = body()
    status, headers, got = get(nginx.port, "/v2/app/manifests/latest", headers=[("Accept", ACCEPT), ("Accept-Encoding", "gzip")])
    assert status == 200 and "Docker-Content-Digest" not in headers
    got = gzip.decompress(got) if headers.get("Content-Encoding") == "gzip" else got
    assert got == (MANIFEST.replace(b"x", b"y", 1) if "sub_filter" in location else MANIFEST)
    tag = nginx.tag()
    assert (tag["digest"], tag["kind"], tag["change"]) == (DIGEST, "image", "new")
    assert nginx.uncounted() == {} and nginx.counters()[HASHED] == 1
    assert nginx.logged(1)[-1][1:] == (REGISTRY, "app", "latest", DIGEST, "-", "new")


def test_hashed_bodies_follow_a_tag(cache, faulty):
    nginx = cache(faulty.port)
    for content, change in ((b"one", "new"), (b"two", "changed"), (b"two", "changed"), (b"one", "revert")):
        faulty.answer = body(content)
        nginx.pull("app", method="GET")
        assert nginx.tag()["change"] == change
    tag = nginx.tag()
    assert (tag["digest"], tag["pending"]) == (sha256(b"two"), sha256(b"one"))
    assert nginx.counters()['keel_observations_total{change="same"}'] == 1


def test_registry_with_digests_is_not_hashed(cache, upstream, repository):
    nginx = cache()
    push(upstream, repository, "latest", "one")
    nginx.pull(repository, method="GET")
    assert nginx.counters()[HASHED] == 0


def test_head_without_a_digest_never_counts(cache, faulty):
    nginx = cache(faulty.port)
    faulty.answer = body()
    nginx.pull("app")
    assert nginx.tags() == {} and nginx.uncounted() == {"no-digest": 1}


def test_head_without_a_digest_may_confirm_by_its_etag(cache, faulty):
    """An ETag that is the digest tells that nothing changed; never that something did."""
    nginx = cache(faulty.port)
    faulty.answer = body(ETag=f'"{DIGEST}"')
    nginx.pull("app")
    assert nginx.tags() == {} and nginx.uncounted() == {"unconfirmed": 1}
    nginx.pull("app", method="GET")
    assert nginx.tag()["digest"] == DIGEST
    for etag in (f'"{DIGEST}"', f'W/"{DIGEST}"'):
        faulty.answer = body(ETag=etag)
        nginx.pull("app")
    assert nginx.counters()['keel_observations_total{change="same"}'] == 2
    before = nginx.tag()
    faulty.answer = body(ETag=f'"{digest_of("other")}"')
    nginx.pull("app")
    assert nginx.tag() == before
    faulty.answer = body(ETag='"5f3-abc"')
    nginx.pull("app")
    assert nginx.uncounted() == {"unconfirmed": 2, "no-digest": 1}


def test_keel_verify_off_hashes_nothing(cache, faulty):
    nginx = cache(faulty.port, location="keel_verify off;", observe=f"keel on; keel_registry {REGISTRY}; keel_verify on;")
    faulty.answer = body()
    nginx.pull("app", method="GET")
    assert nginx.tags() == {} and nginx.uncounted() == {"no-digest": 1} and nginx.counters()[HASHED] == 0


def test_keep_alive_and_many_at_once_are_kept_apart(cache, faulty):
    """Bodies that stream side by side through one worker each have their own hash."""
    nginx = cache(faulty.port, workers=1, location="proxy_buffering off;")
    gate = threading.Barrier(8)

    def answer(method, path):
        gate.wait(30)
        return 200, TYPE, MANIFEST + path.encode()

    faulty.answer = answer

    def client(number):
        connection = http.client.HTTPConnection("127.0.0.1", nginx.port)
        for turn in range(4):
            connection.request("GET", f"/v2/app/manifests/t{number}-{turn}", headers={"Accept": ACCEPT})
            assert connection.getresponse().read().startswith(MANIFEST)
        connection.close()

    clients = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    wanted = {f"t{n}-{t}": sha256(MANIFEST + f"/v2/app/manifests/t{n}-{t}".encode()) for n in range(8) for t in range(4)}
    assert {tag["name"]: tag["digest"] for tag in nginx.tags().values()} == wanted


# --- bodies that are no manifest, or not all of it ---


def test_encoded_body_is_not_the_manifest(cache, faulty):
    nginx = cache(faulty.port, location="gunzip on;")
    faulty.answer = body(gzip.compress(MANIFEST), Content_Encoding="gzip")
    assert nginx.pull("app", method="GET").body == MANIFEST
    assert nginx.tags() == {} and nginx.uncounted() == {"no-digest": 1}


@pytest.mark.parametrize("head", ["Content-Length: 100000", "Transfer-Encoding: chunked"])
def test_truncated_body_never_counts(cache, raw_upstream, head):
    begin = f"HTTP/1.1 200 OK\r\nContent-Type: {OCI_MANIFEST}\r\n{head}\r\n\r\n".encode()
    part = b"%x\r\n%s\r\n" % (len(MANIFEST), MANIFEST) if "chunked" in head else MANIFEST
    nginx = cache(raw_upstream(begin + part).port)
    with pytest.raises(http.client.IncompleteRead):
        nginx.pull("app", method="GET")
    wait_for("the request's end", nginx.uncounted)
    assert nginx.tags() == {} and nginx.uncounted() == {"cut-off": 1}


def test_body_that_ends_with_its_connection_never_counts(cache, raw_upstream):
    """Nobody can tell its end from its loss."""
    nginx = cache(raw_upstream(f"HTTP/1.1 200 OK\r\nContent-Type: {OCI_MANIFEST}\r\n\r\n".encode() + MANIFEST).port)
    assert nginx.pull("app", method="GET").body == MANIFEST
    assert nginx.tags() == {} and nginx.uncounted() == {"no-digest": 1}


@pytest.mark.parametrize("verify", ["missing", "on"])
def test_client_gone_half_way_never_counts_what_it_did_not_get(cache, raw_upstream, verify):
    """With the header trusted (missing) the answer counts at once; a hash needs the end of the body."""
    hold = threading.Event()
    digest = f"Docker-Content-Digest: {digest_of('x')}\r\n" if verify == "on" else ""
    begin = f"HTTP/1.1 200 OK\r\nContent-Type: {OCI_MANIFEST}\r\n{digest}Content-Length: 9000000\r\n\r\n".encode()
    nginx = cache(raw_upstream(begin + MANIFEST, hold).port, location=f"keel_verify {verify}; proxy_buffering off;")
    with socket.create_connection(("127.0.0.1", nginx.port)) as client:
        client.sendall(f"GET /v2/app/manifests/latest HTTP/1.1\r\nHost: x\r\nAccept: {ACCEPT}\r\n\r\n".encode())
        got = b""
        while len(got) < 1000:
            got += client.recv(65536)
    wait_for("the request's end", nginx.uncounted)
    assert nginx.tags() == {} and nginx.uncounted() == {"cut-off": 1}
    hold.set()


def test_client_gone_half_way_after_a_digest_header_counts(cache, raw_upstream):
    hold = threading.Event()
    begin = (f"HTTP/1.1 200 OK\r\nContent-Type: {OCI_MANIFEST}\r\nDocker-Content-Digest: {DIGEST}\r\n"
             f"Content-Length: 9000000\r\n\r\n").encode()  # fmt: skip
    nginx = cache(raw_upstream(begin + MANIFEST, hold).port)
    with socket.create_connection(("127.0.0.1", nginx.port)) as client:
        client.sendall(f"GET /v2/app/manifests/latest HTTP/1.1\r\nHost: x\r\nAccept: {ACCEPT}\r\n\r\n".encode())
        assert client.recv(20).startswith(b"HTTP/1.1 200")
    assert nginx.tag()["digest"] == DIGEST
    hold.set()


def test_range_and_fragments_are_not_hashed(cache, faulty):
    nginx = cache(faulty.port, location="proxy_force_ranges on;")
    faulty.answer = body()
    assert nginx.pull("app", method="GET", headers={"Range": "bytes=0-9"}).status == 206
    faulty.answer = lambda method, path: (206, {**TYPE, "Content-Range": "bytes 0-1/9"}, b"{}")
    nginx.pull("app", method="GET")
    assert nginx.tags() == {} and nginx.uncounted() == {"range": 1, "status": 1}


# --- on ---

ON = f"keel on; keel_registry {REGISTRY}; keel_verify on;"


@pytest.mark.parametrize("digest", [DIGEST, "sha512:" + hashlib.sha512(MANIFEST).hexdigest()])
def test_header_that_is_right_counts(cache, faulty, digest):
    nginx = cache(faulty.port, observe=ON)
    faulty.answer = body(Docker_Content_Digest=digest)
    nginx.pull("app", method="GET")
    assert nginx.tag()["digest"] == digest
    assert nginx.counters()[HASHED] == 1 and nginx.uncounted() == {}


def test_header_that_lies_is_told_and_neither_digest_is_trusted(cache, faulty):
    nginx = cache(faulty.port, observe=ON, workers=1)
    faulty.answer = body(Docker_Content_Digest=DIGEST)
    nginx.pull("app", method="GET")
    before = nginx.tag()
    for lie in (digest_of("lie"), "sha512:" + "ab" * 64):
        faulty.answer = body(Docker_Content_Digest=lie)
        assert nginx.pull("app", method="GET").digest == lie  # the pull is not touched
        faulty.answer = body(b"other", Docker_Content_Digest=DIGEST)
        assert nginx.pull("app", method="GET").body == b"other"
    assert nginx.tag() == before
    assert nginx.uncounted() == {"digest-mismatch": 4}
    assert 'the answer for "app:latest" does not count: its Docker-Content-Digest is not the digest of its body' in nginx.errors()
    assert nginx.logged(5)[-1][1:] == (REGISTRY, "app", "latest", "-", "-", "-")


def test_head_is_trusted_where_there_is_nothing_to_hash(cache, faulty):
    nginx = cache(faulty.port, observe=ON)
    faulty.answer = body(Docker_Content_Digest=DIGEST)
    nginx.pull("app")
    assert nginx.tag()["digest"] == DIGEST and nginx.counters()[HASHED] == 0


def test_real_registry_passes(cache, upstream, repository):
    nginx = cache(observe=ON)
    for content in range(3):
        for kind in ("image", "index"):
            digest = push(upstream, repository, "latest", content, kind)
            nginx.pull(repository, method="GET")
            assert nginx.tag(repository)["digest"] == digest
    assert nginx.counters()[HASHED] == 6 and nginx.uncounted() == {}


@pytest.mark.parametrize("sendfile", ["on", "off"])
def test_cache_of_nginx_is_hashed_when_it_is_filled(cache, faulty, tmp_path, sendfile):
    """With sendfile the body would pass as a file, even on a miss: it is asked for in memory."""
    http = f"proxy_cache_path {tmp_path}/manifests keys_zone=manifests:1m use_temp_path=off; sendfile {sendfile};"
    nginx = cache(faulty.port, http=http, location="proxy_cache manifests; proxy_cache_valid 200 1m;")
    faulty.answer = body()

    def hit():
        assert nginx.pull("app", method="GET").body == MANIFEST
        return nginx.uncounted().get("cached")

    assert not hit()
    wait_for("a hit", hit, interval=0.02)
    assert nginx.tag()["digest"] == DIGEST
    assert nginx.counters()[HASHED] == len(faulty.asked)


def test_revalidated_cache_is_hashed_again(cache, faulty, tmp_path):
    http = f"proxy_cache_path {tmp_path}/manifests keys_zone=manifests:1m use_temp_path=off; sendfile on;"
    location = "proxy_cache manifests; proxy_cache_valid 200 1s; proxy_cache_revalidate on;"
    nginx = cache(faulty.port, http=http, location=location)
    faulty.answer = body(ETag='"a"')
    wait_for("a hit", lambda: nginx.pull("app", method="GET") and nginx.uncounted().get("cached"), interval=0.02)
    known = nginx.counters()['keel_observations_total{change="same"}']
    faulty.answer = lambda method, path: (304, {}, b"")

    def revalidated():
        assert nginx.pull("app", method="GET").body == MANIFEST
        return nginx.counters()['keel_observations_total{change="same"}'] > known

    wait_for("a revalidation", revalidated, interval=0.1)
    assert nginx.tag()["digest"] == DIGEST


def test_background_update_cannot_be_hashed_and_says_so(cache, faulty, tmp_path):
    """Its body goes to nginx's cache alone."""
    http = f"proxy_cache_path {tmp_path}/manifests keys_zone=manifests:1m use_temp_path=off;"
    location = ("proxy_cache manifests; proxy_cache_valid 200 1s; proxy_cache_use_stale updating;"
                "proxy_cache_background_update on;")  # fmt: skip
    nginx = cache(faulty.port, http=http, location=location)
    faulty.answer = body()
    wait_for("a hit", lambda: nginx.pull("app", method="GET") and nginx.uncounted().get("cached"), interval=0.02)
    faulty.answer = body(b"other")

    def updated():
        nginx.pull("app", method="GET")
        return nginx.uncounted().get("no-digest")

    wait_for("a background update", updated, interval=0.1)
    assert nginx.tag()["digest"] == DIGEST


# --- answers that nginx makes up ---


def test_made_up_answer_after_an_upstreams_is_not_hashed(cache, faulty, tmp_path):
    """r->upstream is still the old answer then."""
    (tmp_path / "made-up").write_bytes(MANIFEST)
    tmp_path.chmod(0o755)
    server = f"location = /made-up {{ internal; default_type {OCI_MANIFEST}; root {tmp_path}; }}"
    location = "proxy_intercept_errors on; error_page 404 = /made-up;"
    nginx = cache(faulty.port, server=server, location=location)
    faulty.answer = lambda method, path: (404, {}, b"{}")
    assert nginx.pull("app", method="GET").body == MANIFEST
    faulty.answer = lambda method, path: (200, {"X-Accel-Redirect": "/made-up"}, b"")
    assert nginx.pull("app", method="GET").body == MANIFEST
    assert nginx.tags() == {} and nginx.uncounted() == {"no-upstream": 2}


def test_error_that_is_given_another_status_never_counts(cache, faulty):
    location = "proxy_intercept_errors on; error_page 401 =200 @second;"
    server = f"location @second {{ proxy_pass http://127.0.0.1:{faulty.port}; }}"
    nginx = cache(faulty.port, server=server, location=location)
    faulty.answer = lambda method, path: (401, {**TYPE, "Docker-Content-Digest": DIGEST}, b"{}")
    assert nginx.pull("app", method="GET").status == 200
    assert nginx.tags() == {} and nginx.uncounted() == {"no-upstream": 1}


def test_sub_request_is_not_hashed(cache, faulty):
    """SSI: the page is the answer, and not a manifest that it includes."""
    server = f"""location /page {{ ssi on; ssi_types *; keel on; proxy_pass http://127.0.0.1:{faulty.port}; }}"""
    nginx = cache(faulty.port, server=server)

    def answer(method, path):
        if path.startswith("/page"):
            return 200, {"Content-Type": "text/html"}, b'<!--# include virtual="/v2/app/manifests/latest" -->.'
        return 200, TYPE, MANIFEST

    faulty.answer = answer
    assert get(nginx.port, "/page", headers=[("Accept", ACCEPT)])[2] == MANIFEST + b"."
    assert nginx.tags() == {} and nginx.counters()[HASHED] == 0


def test_index_is_an_index(cache, faulty):
    nginx = cache(faulty.port)
    faulty.answer = lambda method, path: (200, {"Content-Type": OCI_INDEX}, MANIFEST)
    nginx.pull("app", method="GET")
    assert (nginx.tag()["digest"], nginx.tag()["kind"]) == (DIGEST, "index")
