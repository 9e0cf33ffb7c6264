"""The ways that a request and its answer can take through nginx, and what is seen of them."""

import socket
import threading

import pytest
from cache import REGISTRY, digest_of, get, push, raw

from lab.ports import free_port
from lab.process import program, run
from lab.registry import ACCEPT, OCI_INDEX, OCI_MANIFEST, sha256
from lab.wait import wait_for

BODY = b'{"manifests": []}'
SAME = 'keel_observations_total{change="same"}'


def manifest(digest, **headers):
    more = {key.replace("_", "-"): value for key, value in headers.items()}
    return lambda method, path: (200, {"Content-Type": OCI_INDEX, "Docker-Content-Digest": digest, **more}, BODY)


# --- HTTP/2 ---


@pytest.fixture
def second(cache, faulty, tmp_path):
    """A cache whose clients speak HTTP/2, and a function that asks it by curl, all paths on one connection."""
    port = free_port()
    run(program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
        "-subj", "/CN=localhost", "-keyout", tmp_path / "key", "-out", tmp_path / "cert")  # fmt: skip
    server = f"listen 127.0.0.1:{port} ssl http2; ssl_certificate {tmp_path}/cert; ssl_certificate_key {tmp_path}/key;"

    def make(**options):
        nginx = cache(faulty.port, server=server, **options)

        def ask(*paths, lines=(f"accept: {ACCEPT}",), words=()):
            headers = [word for line in lines for word in ("-H", line)]
            urls = [f"https://127.0.0.1:{port}{path}" for path in paths]
            return run(program("curl"), "-sSk", "--http2", "--parallel", *headers, *words, *urls, "-w", "%{http_version} %{http_code}\n")

        return nginx, ask

    return make


def test_http2_head_and_get_are_observed(second, faulty):
    nginx, ask = second()
    faulty.answer = manifest(digest_of(1))
    assert ask("/v2/app/manifests/latest", words=["--head", "-o", "/dev/null"]) == "2 200\n"
    assert (nginx.tag()["digest"], nginx.tag()["kind"], nginx.tag()["change"]) == (digest_of(1), "index", "new")
    faulty.answer = manifest(digest_of(2))
    assert ask("/v2/app/manifests/latest", words=["-A", "containerd/2.2.0"]) == BODY.decode() + "2 200\n"
    assert (nginx.tag()["digest"], nginx.tag()["asked_by"]) == (digest_of(2), "kubelet")


def test_http2_accept_lines_and_streams_of_one_connection(second, faulty, tmp_path):
    """Each type on a line of its own, many streams of one connection; one without all types does not count."""
    nginx, ask = second(workers=1)
    faulty.answer = lambda method, path: manifest(digest_of(path))(method, path)
    types = [line.strip() for line in ACCEPT.split(",")]
    ask(*(f"/v2/app/manifests/t{n}" for n in range(20)), lines=[f"accept: {kind}" for kind in types],
        words=[word for n in range(20) for word in ("-o", tmp_path / f"{n}")])  # fmt: skip
    wanted = {f"t{n}": digest_of(f"/v2/app/manifests/t{n}") for n in range(20)}
    assert {tag["name"]: tag["digest"] for tag in nginx.tags().values()} == wanted
    ask("/v2/app/manifests/narrow", lines=[f"accept: {types[0]}"])
    assert nginx.uncounted() == {"narrow-accept": 1}


def test_http2_body_is_hashed(second, faulty):
    nginx, ask = second()
    content = b"x" * 200_000  # more than a window
    faulty.answer = lambda method, path: (200, {"Content-Type": OCI_MANIFEST}, content)
    ask("/v2/app/manifests/latest", words=["-o", "/dev/null"])
    assert nginx.tag()["digest"] == sha256(content)


# --- connections ---


def test_pipelined_requests_of_all_kinds_are_kept_apart(cache, faulty):
    nginx = cache(faulty.port)
    faulty.answer = lambda method, path: manifest(digest_of(path))(method, path)
    paths = ["/v2/app/manifests/one", f"/v2/app/manifests/{digest_of(1)}", f"/v2/app/blobs/{digest_of(2)}", "/v2/",
             "/v2/app/manifests/two", f"/v2/app/manifests/sha256-{digest_of(3)[7:]}.sig", "/v2/app/tags/list",
             "/v2/app/manifests/one"]  # fmt: skip
    head = f"Host: x\r\nAccept: {ACCEPT}\r\n"
    request = "".join(f"GET {path} HTTP/1.1\r\n{head}\r\n" for path in paths[:-1])
    answer = raw(nginx.port, (request + f"GET {paths[-1]} HTTP/1.1\r\n{head}Connection: close\r\n\r\n").encode())
    assert answer.count(b"HTTP/1.1 200 OK") == len(paths)
    assert {tag["name"]: tag["digest"] for tag in nginx.tags().values()} == {
        name: digest_of(f"/v2/app/manifests/{name}") for name in ("one", "two")}  # fmt: skip
    assert nginx.counters()[SAME] == 1 and nginx.uncounted() == {}


def test_lower_case_headers_of_the_registry_count(cache, faulty):
    nginx = cache(faulty.port)
    faulty.answer = lambda method, path: (200, [("content-type", OCI_MANIFEST), ("docker-content-digest", digest_of(1))], b"{}")
    nginx.pull()
    assert nginx.tag()["digest"] == digest_of(1)


@pytest.mark.parametrize("ignored", [False, True])
def test_client_gone_before_the_answer(cache, faulty, ignored):
    """nginx then ends its own request too, unless told otherwise: an answer that came is an answer."""
    nginx = cache(faulty.port, location="proxy_ignore_client_abort on;" if ignored else "")
    asked, go = threading.Event(), threading.Event()

    def answer(method, path):
        asked.set()
        assert go.wait(20)
        return manifest(digest_of(1))(method, path)

    faulty.answer = answer
    with socket.create_connection(("127.0.0.1", nginx.port)) as client:
        client.sendall(f"HEAD /v2/app/manifests/latest HTTP/1.1\r\nHost: x\r\nAccept: {ACCEPT}\r\n\r\n".encode())
        assert asked.wait(10)
    if not ignored:
        wait_for("the end of the request", nginx.logged)
    go.set()
    if ignored:
        wait_for("the answer", nginx.tags)
        assert nginx.tag()["digest"] == digest_of(1)
    else:
        assert nginx.tags() == {}


# --- answers that are no manifest ---


def test_d8_health_checks_and_pings_leave_no_trace(cache, faulty):
    nginx = cache(faulty.port)
    for status in (200, 401, 503):
        faulty.answer = lambda method, path: (status, {}, b"{}")  # noqa: B023
        for path in ("/v2/", "/v2", "/", "/healthz", "/v2/app/tags/list"):
            get(nginx.port, path, "HEAD")
            get(nginx.port, path, headers=[("User-Agent", "kube-probe/1.34"), ("Accept", "*/*")])
    assert nginx.tags() == {} and nginx.uncounted() == {} and nginx.api("status")[1]["registries"] == {}


def test_d8_challenge_and_then_the_answer(cache, faulty):
    """As a client with a token does it: 401 first, which says nothing of the tag."""
    nginx = cache(faulty.port)

    def answer(method, path):
        if "Authorization" not in faulty.asked[-1][2]:
            return 401, {"WWW-Authenticate": 'Bearer realm="https://auth.example/token"'}, b"{}"
        return manifest(digest_of(1))(method, path)

    faulty.answer = answer
    assert nginx.pull().status == 401
    assert nginx.tags() == {} and nginx.uncounted() == {"status": 1}
    assert nginx.pull(headers={"Authorization": "Bearer t"}).digest == digest_of(1)
    assert nginx.tag()["digest"] == digest_of(1)


def test_d8_redirect_of_the_registry_says_nothing(cache, faulty):
    """307 to a storage: the client goes there itself, even when the answer carries a digest."""
    nginx = cache(faulty.port)
    headers = {"Location": "https://storage.example/m", "Docker-Content-Digest": digest_of(1), "Content-Type": OCI_MANIFEST}
    faulty.answer = lambda method, path: (307, headers, b"")
    for method in ("HEAD", "GET"):
        status, got, _ = get(nginx.port, "/v2/app/manifests/latest", method, [("Accept", ACCEPT)])
        assert (status, got["Location"]) == (307, "https://storage.example/m")
    assert nginx.tags() == {} and nginx.uncounted() == {"status": 2}


def test_redirect_that_nginx_follows_is_observed_by_the_name_asked_for(cache, faulty):
    server = f"""location @follow {{ set $place $upstream_http_location; proxy_pass http://127.0.0.1:{faulty.port}$place; }}"""
    nginx = cache(faulty.port, server=server, location="proxy_intercept_errors on; error_page 307 = @follow;")

    def answer(method, path):
        if path.startswith("/v2/"):
            return 307, {"Location": "/storage/of/it", "Docker-Content-Digest": digest_of("the redirect's")}, b""
        return manifest(digest_of(1))(method, path)

    faulty.answer = answer
    assert nginx.pull(method="GET").digest == digest_of(1)
    assert {tag: state["digest"] for tag, state in nginx.tags().items()} == {f"{REGISTRY}/app:latest": digest_of(1)}


def test_d8_refusals_of_nginx_itself_are_none_of_the_registrys(cache, faulty):
    """limit_req, deny and auth_request: nobody was asked."""
    http = "limit_req_zone $binary_remote_addr zone=one:64k rate=1r/m;"
    server = """location = /auth { internal; return 401; }
                location /v2/limited/ { limit_req zone=one; limit_req_status 429; proxy_pass http://registry; }
                location /v2/denied/ { deny all; proxy_pass http://registry; }
                location /v2/auth/ { auth_request /auth; proxy_pass http://registry; }"""
    nginx = cache(faulty.port, http=http, server=server)
    faulty.answer = manifest(digest_of(1))
    assert [nginx.pull("limited/app").status for _ in range(2)] == [200, 429]
    assert nginx.pull("denied/app").status == 403
    assert nginx.pull("auth/app").status == 401
    assert list(nginx.tags()) == [f"{REGISTRY}/limited/app:latest"]
    assert nginx.uncounted() == {"status": 3}
    state = nginx.api("status")[1]["registries"][REGISTRY]
    assert (state["throttled"], state["unauthorized"], state["last_error"]) == ("0", "0", None)


def test_error_page_of_another_location_that_is_off(cache, faulty):
    """The location that answers decides."""
    server = f"location @off {{ keel off; proxy_pass http://127.0.0.1:{faulty.port}/other; }}"
    nginx = cache(faulty.port, server=server.replace("/other", ""), location="proxy_intercept_errors on; error_page 404 = @off;")
    state = {"first": True}

    def answer(method, path):
        state["first"] = not state["first"]
        return manifest(digest_of(1))(method, path) if state["first"] else (404, {}, b"{}")

    faulty.answer = answer
    assert nginx.pull().digest == digest_of(1)
    assert nginx.tags() == {} and nginx.uncounted() == {}


# --- sub-requests ---


def test_answer_that_includes_others_counts_once(cache, faulty):
    """SSI in the answer to a tag request: what it includes is asked for by nginx."""
    server = "location /part/ { proxy_pass http://registry; }"
    nginx = cache(faulty.port, server=server, location="ssi on; ssi_types *; addition_types *; add_after_body /part/after;")

    def answer(method, path):
        if path.startswith("/part/"):
            return manifest(digest_of("part"))(method, path)
        return 200, {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": digest_of(1)}, b'<!--# include virtual="/part/x" -->'

    faulty.answer = answer
    assert nginx.pull(method="GET").body == BODY + BODY
    assert len(faulty.asked) == 3
    assert [(tag["digest"], tag["change"]) for tag in nginx.tags().values()] == [(digest_of(1), "new")]
    assert nginx.counters()[SAME] == 0 and nginx.uncounted() == {}


def test_mirror_of_a_tag_request_is_not_counted_twice(cache, faulty):
    server = "location = /mirror { internal; keel on; proxy_pass http://registry$request_uri; }"
    nginx = cache(faulty.port, server=server, location="mirror /mirror;")
    faulty.answer = manifest(digest_of(1))
    nginx.pull()
    wait_for("the mirror", lambda: len(faulty.asked) == 2)
    assert nginx.counters()[SAME] == 0 and list(nginx.tags()) == [f"{REGISTRY}/app:latest"]


# --- nginx's own cache ---

CACHED = "proxy_cache manifests; proxy_cache_valid 200 1s; proxy_cache_key $uri; proxy_cache_revalidate on;"


def cached(cache, faulty, tmp_path, location=CACHED):
    http = f"proxy_cache_path {tmp_path}/manifests keys_zone=manifests:1m use_temp_path=off;"
    return cache(faulty.port, http=http, location=location)


def test_revalidated_answer_counts_as_what_it_is(cache, faulty, tmp_path):
    """304 from upstream for nginx's own copy: the tag is where the copy says, now."""
    nginx = cached(cache, faulty, tmp_path)
    faulty.answer = lambda method, path: (
        (304, {}, b"") if "If-None-Match" in faulty.asked[-1][2] else manifest(digest_of(1), ETag='"e"')(method, path))
    def revalidated():
        assert nginx.pull(method="GET").digest == digest_of(1)
        return any(asked[2].get("If-None-Match") == '"e"' for asked in faulty.asked)

    wait_for("a revalidation", revalidated, interval=0.1)
    wait_for("it to count", lambda: nginx.counters()[SAME])
    assert nginx.tag()["digest"] == digest_of(1)


def test_condition_that_nginx_answers_from_its_cache_never_counts(cache, faulty, tmp_path):
    nginx = cached(cache, faulty, tmp_path, CACHED.replace("1s", "1m"))
    faulty.answer = manifest(digest_of(1), ETag='"e"')
    wait_for("a hit", lambda: nginx.pull(method="GET") and nginx.uncounted().get("cached"), interval=0.02)
    before, hits = nginx.counters()[SAME], nginx.uncounted()["cached"]
    assert nginx.pull(method="GET", headers={"If-None-Match": '"e"'}).status == 304
    assert nginx.counters()[SAME] == before and nginx.uncounted() == {"cached": hits + 1}


def test_compressing_nginx_is_observed(cache, upstream, repository):
    """gzip weakens the ETag and takes the length away, after the module has looked."""
    nginx = cache(location="gzip on; gzip_types *; gzip_min_length 1; gzip_proxied any;")
    digest = push(upstream, repository, "latest", "one")
    _, headers, _ = get(nginx.port, f"/v2/{repository}/manifests/latest", headers=[("Accept", ACCEPT), ("Accept-Encoding", "gzip")])
    assert (headers["Content-Encoding"], headers["ETag"]) == ("gzip", f'W/"{digest}"')
    assert nginx.tag(repository)["digest"] == digest
    assert nginx.pull(repository, headers={"If-None-Match": f'W/"{digest}"'}).status in (200, 304)
    assert nginx.uncounted() == {} and nginx.counters()[SAME] == 1


# --- names ---


@pytest.mark.parametrize("query, registry", [
    ("?ns=docker.io&x=y", "docker.io"), ("?x=y&ns=docker.io", "docker.io"), ("?NS=docker.io", "docker.io"),
    ("?ns=ghcr.io&ns=docker.io", "ghcr.io"), ("?ns=DOCKER.IO", None), ("?xns=docker.io", None), ("?ns=docker.io%00", None),
    ("?ns=docker.io/evil", None), ("?ns=" + "x" * 3000, None),
])  # fmt: skip
def test_registry_by_argument_in_every_spelling(cache, faulty, query, registry):
    nginx = cache(faulty.port, observe="keel on; keel_registry $arg_ns names=docker.io,ghcr.io;")
    faulty.answer = manifest(digest_of(1))
    assert nginx.pull(query=query).status == 200
    assert list(nginx.tags()) == ([f"{registry}/app:latest"] if registry else [])
    assert nginx.uncounted() == ({} if registry else {"unnamed-registry": 1})


@pytest.mark.parametrize("path", ["/v2/APP/manifests/latest", "/v2/app/manifests/-bad", "/v2/a%20b/manifests/x", "/v2/app/manifests/a:b",
                                  "/v2/app_/manifests/latest", "/v2/" + "x" * 256 + "/manifests/y"])  # fmt: skip
@pytest.mark.parametrize("status", [200, 304, 404, 429])
def test_d3_path_that_names_no_tag_leaves_no_trace(cache, faulty, path, status):
    nginx = cache(faulty.port)
    headers = {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": digest_of(1)}
    for more in (headers, {"Content-Type": OCI_MANIFEST}):
        faulty.answer = lambda method, path: (status, more, b"")  # noqa: B023
        for method in ("GET", "HEAD"):
            get(nginx.port, path, method, [("Accept", ACCEPT)])
            get(nginx.port, path, method)
    assert nginx.tags() == {} and nginx.uncounted() == {} and nginx.api("status")[1]["registries"] == {}
    assert {row[1:] for row in nginx.logged()} == {("-",) * 6}
