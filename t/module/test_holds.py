"""Holds on the pull path: who asks for a held tag gets the held digest, whatever he writes, and nothing of it is taken
for a change. Setting and lifting is in test_api_writes.py."""

import concurrent.futures
import hashlib
import http.client
import json
import mmap
import os
import re
import shutil
import signal
import subprocess
import threading
import time

import pytest
from cache import REGISTRY, SECRET, digest_of, get, push, raw, secret_line
from test_api_writes import utc

from lab.ports import free_port
from lab.process import program
from lab.registry import ACCEPT, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Registry
from lab.wait import wait_for

NOW, HELD = digest_of("what the tag is"), digest_of("what it is held at")
TAG = f"{REGISTRY}/app:latest"


@pytest.fixture
def secret(tmp_path):
    """What keel_api needs so that Cache.hold() may write."""
    path = tmp_path / "keeld.secret"
    path.write_text(secret_line(SECRET))
    path.chmod(0o600)
    return f"secret=keeld:{path}"


def manifests(faulty, headers=None, **tags):
    """faulty answers the digests of `tags` by name, every manifest by its digest, and `headers` with each."""

    def answer(method, path):
        reference = path.split("?")[0].rsplit("/", 1)[1]
        digest = tags.get(reference) or (reference if reference.startswith("sha256:") else None)
        if digest is None:
            return 404, {}, b"{}"
        return 200, {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": digest, **(headers or {})}, b"{}"

    faulty.answer = answer


@pytest.fixture
def nginx(cache, faulty, secret):
    """A cache whose tag is at NOW and held at HELD."""
    manifests(faulty, latest=NOW, free=NOW)
    server = cache(faulty.port, api=secret)
    server.hold(TAG, HELD)
    return server


def mark(headers):
    return headers.get_all("X-Keel-Hold")


def ask(nginx, path="/v2/app/manifests/latest", method="GET", headers=None):
    return get(nginx.port, path, method, [("Accept", ACCEPT)] if headers is None else headers)


def observed(nginx):
    """Every counter that an observation moves, and the table."""
    counters = {name: value for name, value in nginx.counters().items() if re.match(r"keel_(obs|unc|dropped|events)", name)}
    return counters, nginx.tags()


# --- the answer ---


def test_held_tag_answers_the_held_digest_and_says_so(nginx, faulty):
    before, asked = observed(nginx), len(faulty.asked)
    for method in ("GET", "HEAD"):
        status, headers, _ = ask(nginx, method=method)
        assert (status, headers["Docker-Content-Digest"], mark(headers)) == (200, HELD, [HELD])
    assert [path for _, path, _ in faulty.asked[asked:]] == [f"/v2/app/manifests/{HELD}"] * 2  # and no other request
    assert observed(nginx) == before
    assert nginx.holds()[1][TAG]["answers"] == "2"
    _, headers, _ = ask(nginx, "/v2/app/manifests/free")
    assert (headers["Docker-Content-Digest"], mark(headers)) == (NOW, None)
    nginx.release(TAG)
    _, headers, _ = ask(nginx)
    assert (headers["Docker-Content-Digest"], mark(headers)) == (NOW, None)
    assert nginx.tag()["change"] == "new"


def test_only_this_tag_of_this_repository_of_this_registry(nginx, faulty):
    for path in ("/v2/app/manifests/Latest", "/v2/app/manifests/latest-1", "/v2/app2/manifests/latest", "/v2/a/app/manifests/latest"):
        manifests(faulty, **{path.rsplit("/", 1)[1]: NOW})
        _, headers, _ = ask(nginx, path)
        assert (headers["Docker-Content-Digest"], mark(headers)) == (NOW, None), path
    other = digest_of("another")
    _, headers, _ = ask(nginx, f"/v2/app/manifests/{other}")
    assert (headers["Docker-Content-Digest"], mark(headers)) == (other, None)
    put(nginx, file_of(2, [entry(other, "elsewhere.example/app:latest"), entry()]))
    wait_for("followed", lambda: nginx.holds()[0] == 2)
    assert ask(nginx)[1]["Docker-Content-Digest"] == HELD


@pytest.mark.parametrize("accept", [ACCEPT, OCI_INDEX, OCI_MANIFEST, DOCKER_MANIFEST, "*/*", None])
@pytest.mark.parametrize("kind", ["image", "index"])
def test_answer_equals_that_by_digest_but_for_the_header(cache, through, upstream, repository, secret, kind, accept):
    held = push(upstream, repository, "latest", "old", kind)
    nginx = cache(through.port, api=secret)
    nginx.hold(f"{REGISTRY}/{repository}:latest", held)
    push(upstream, repository, "latest", "new", kind)
    for method in ("GET", "HEAD"):
        for more in ("", f'If-None-Match: "{held}"\r\n', "Range: bytes=0-9\r\n", "Accept-Encoding: gzip\r\n"):
            lines = f"Accept: {accept}\r\n" if accept else ""
            request = f"{method} /v2/{repository}/manifests/%s HTTP/1.1\r\nHost: cache\r\n{lines}{more}Connection: close\r\n\r\n"
            by_tag, by_digest = (re.sub(rb"\r\nDate: [^\r]*", b"", raw(nginx.port, (request % which).encode()))
                                 for which in ("latest", held))  # fmt: skip
            line = f"\r\nX-Keel-Hold: {held}".encode()
            assert by_tag.count(line) == 1, by_tag
            assert by_tag.replace(line, b"") == by_digest
    assert int(nginx.holds()[1][f"{REGISTRY}/{repository}:latest"]["ineffective"]) == 0


def test_header_of_an_upstream_is_dropped(nginx, faulty):
    for name in ("X-Keel-Hold", "x-keel-hold"):
        manifests(faulty, {name: digest_of("forged")}, latest=NOW, free=NOW)
        assert mark(ask(nginx)[1]) == [HELD]
        assert mark(ask(nginx, "/v2/app/manifests/free")[1]) is None


def test_name_of_another_caches_hold_stays_where_this_one_has_no_part_in_holds(cache, faulty, secret):
    """Behind another cache: keeld's look-up must see that what it is told is not what the registry has."""
    held = digest_of("held by the cache before this one")
    manifests(faulty, {"X-Keel-Hold": held}, latest=held)
    port = free_port()
    http = f"server {{ listen 127.0.0.1:{port}; keel on; keel_registry {REGISTRY}; keel_hold off; location /v2/ {{ proxy_pass http://registry; }} }}"
    nginx = cache(faulty.port, api=secret, http=http)
    assert mark(get(port, "/v2/app/manifests/latest", "GET", [("Accept", ACCEPT)])[1]) == [held]
    assert mark(ask(nginx)[1]) is None


def test_log_variables(cache, faulty, secret, tmp_path):
    manifests(faulty, latest=NOW)
    http = "log_format hold '$request|$keel_registry $keel_repository $keel_tag $keel_change $keel_digest $keel_hold';"
    nginx = cache(faulty.port, api=secret, http=http, server=f"access_log {tmp_path}/hold.log hold;")
    ask(nginx)
    nginx.hold(TAG, HELD)
    ask(nginx)
    lines = wait_for("log", lambda: len(rows := (tmp_path / "hold.log").read_text().splitlines()) == 2 and rows)
    request = "GET /v2/app/manifests/latest HTTP/1.1"
    assert lines == [f"{request}|{REGISTRY} app latest new {NOW} -", f"{request}|{REGISTRY} app latest held - {HELD}"]


# --- what a client may try ---


def targets(repository):
    """Spellings of a tag's path, those that reach it and those that do not."""
    path = f"/v2/{repository}/manifests/latest"
    encoded = "".join(f"%{ord(c):02x}" for c in "latest")
    return [
        path, f"{path}?", f"{path}?ns=docker.io", f"{path}?ns=", f"{path}?ns={REGISTRY}&ns=other", f"{path}?x=%2f..%2f", f"{path}#x",
        path.replace("latest", "%6catest"), path.replace("latest", "%6Catest"), path.replace("latest", "lates%74"),
        path.replace("latest", encoded), path.replace("manifests", "%6danifests"), path.replace("/v2/", "/%762/"),
        path.replace("/manifests/", "%2fmanifests%2f"), path.replace("/manifests/", "%2Fmanifests/"), path.replace("/v2/", "/v2%2f"),
        path.replace(repository, repository.replace("/", "%2f")), path.replace(repository, repository.replace("/", "%2F")),
        path.replace(repository, repository.replace("a", "%61")), path.replace("/", "//"), f"/{path}", path.replace("/manifests", "//manifests"),
        path.replace("/latest", "//latest"), path.replace("/latest", "/./latest"), path.replace("/latest", "/x/../latest"),
        path.replace("/latest", "/x/%2e%2e/latest"), path.replace("/latest", "/x%2f..%2flatest"), path.replace("/latest", "/x%2f%2e%2e%2flatest"),
        f"/x/..{path}", f"/x/%2e%2e{path}", f"/v2/../v2{path[3:]}", f"/v2/x/..{path[3:]}", f"/v2/x%2f..{path[3:]}", f"{path}/../latest",
        f"{path}/", f"{path}/.", f"{path}//", f"{path}/..", f"{path}%00", f"{path}%20", f"{path};x=1", f"{path}%3fx=1", f"{path}%23",
        path.replace("latest", "LATEST"), path.replace("latest", "Latest"), path.upper(), path.replace("/v2/", "/V2/"),
        path.replace("manifests", "Manifests"), path.replace("latest", "%256catest"), path.replace("/", "%252f"), path.replace("/", "\\"),
        f"http://cache{path}", f"http://other.example:99{path}", f"HTTP://cache{path}", f"http://cache/x/..{path}?ns=x", f"https://cache{path}",
        f"//cache{path}", f"*{path}", path[1:], path.replace("latest", "%l"), path.replace("latest", "lat%e"), path + "\u00e9",
    ]  # fmt: skip


HEADERS = [
    "", "X-Keel-Hold: off\r\n", f"X-Keel-Hold: {NOW}\r\n", "X-Keel-Change: none\r\nKeel-Hold: off\r\n", "X-Original-URI: /v2/x/manifests/y\r\n",
    "X-Rewrite-URL: /v2/x/manifests/y\r\nX-Forwarded-Uri: /\r\n", "X-HTTP-Method-Override: OPTIONS\r\n", "X-Accel-Redirect: /v2/\r\n",
    "Cache-Control: no-cache\r\nPragma: no-cache\r\n", "If-None-Match: \"x\"\r\n", "If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT\r\n",
    "Host: other.example\r\n", "User-Agent: keeld/1\r\n", "Content-Length: 2\r\n",
]  # fmt: skip


@pytest.mark.parametrize("merge", ["on", "off"])
@pytest.mark.parametrize("which", ["upstream", "through"])
def test_no_spelling_passes_a_hold(cache, request, upstream, repository, secret, merge, which):
    """What reaches the tag beside the hold is held, and no answer has the tag's own digest."""
    registry = request.getfixturevalue(which)
    held = push(upstream, repository, "latest", "old")
    now = push(upstream, repository, "latest", "new")
    beside = free_port()
    http = f"""merge_slashes {merge};
        server {{ listen 127.0.0.1:{beside}; keel on; keel_registry {REGISTRY}; keel_hold off; location /v2/ {{ proxy_pass http://registry; }} }}"""
    nginx = cache(registry.port, api=secret, http=http)
    tag = f"{REGISTRY}/{repository}:latest"
    nginx.hold(tag, held)
    reached = 0

    def attempt(method, target, header):
        lines = header if "Host:" in header else f"Host: cache\r\n{header}"
        body = "{}" if "Content-Length" in header else ""
        message = f"{method} {target} HTTP/1.1\r\n{lines}Accept: {ACCEPT}\r\nConnection: close\r\n\r\n{body}".encode()
        free, bound = raw(beside, message), raw(nginx.port, message)
        assert b"X-Keel-Hold" not in free
        if now.encode() in free.split(b"\r\n\r\n")[0]:
            assert bound.startswith(b"HTTP/1.1 200") and now.encode() not in bound, (target, header, bound)
            assert f"Docker-Content-Digest: {held}".encode() in bound and f"X-Keel-Hold: {held}".encode() in bound
            return 1
        # It does not reach the tag, or only what nginx makes of it does ("latest#x").
        same = bound.split(b" ")[1] == free.split(b" ")[1]
        assert now.encode() not in bound and (same or f"X-Keel-Hold: {held}".encode() in bound), (target, header, free, bound)
        return 0

    for target in targets(repository):
        reached += attempt("GET", target, "") + attempt("HEAD", target, "")
    assert reached >= 2 * 20, reached
    for header in HEADERS:
        for method in ("GET", "HEAD"):
            assert attempt(method, f"/v2/{repository}/manifests/latest", header) == 1, header
    for method in ("POST", "PUT", "PATCH", "OPTIONS", "get", "Head"):
        attempt(method, f"/v2/{repository}/manifests/latest", "")
    hold = nginx.holds()[1][tag]
    assert (hold["ineffective"], hold["digest"]) == ("0", held)


@pytest.mark.parametrize("merge", ["on", "off"])
def test_doubled_slashes_pass_no_hold_where_the_upstream_merges_them(cache, faulty, secret, merge):
    manifests(faulty, latest=NOW)  # whatever stands before the last slash
    nginx = cache(faulty.port, api=secret, http=f"merge_slashes {merge};", server="location / { proxy_pass http://registry; }")
    nginx.hold(TAG, HELD)
    for path in ("//v2/app/manifests/latest", "/v2//app/manifests/latest", "/v2/app//manifests/latest", "/v2/app/manifests//latest",
                 "///v2///app////manifests/////latest", "/v2/app/%2fmanifests/latest", "/v2/app/manifests%2f%2flatest"):  # fmt: skip
        answer = raw(nginx.port, f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {ACCEPT}\r\nConnection: close\r\n\r\n".encode()).decode()
        assert f"Docker-Content-Digest: {HELD}" in answer and f"X-Keel-Hold: {HELD}" in answer, (path, answer)
    assert faulty.asked[-1][1] == f"/v2/app/manifests/{HELD}"


def test_no_client_can_set_or_lift_a_hold(nginx):
    before = nginx.holds()
    path = f"/keel/holds/{TAG}"
    body = json.dumps({"digest": NOW, "force": True})
    for method in ("PUT", "DELETE", "POST", "PATCH", "put", "GET"):
        for extra in ("", "X-Keel-Hold: off\r\n", "Authorization: Basic cm9vdDpyb290\r\n", "X-Forwarded-For: unix:\r\n", "X-Real-IP: 127.0.0.1\r\n"):
            for target in (path, path.replace("keel", "%6beel"), f"/x/..{path}", f"//keel//holds/{TAG}", f"http://localhost{path}"):
                for port in (nginx.api_port, nginx.port):
                    answer = raw(port, f"{method} {target} HTTP/1.1\r\nHost: x\r\nIf-Match: 1\r\nContent-Length: {len(body)}\r\n{extra}"
                                       f"Connection: close\r\n\r\n{body}".encode())  # fmt: skip
                    assert answer.split(b" ")[1] in (b"400", b"403", b"404", b"405"), answer
    assert nginx.holds() == before


def test_hold_goes_by_the_name_that_chooses_the_upstream(cache, faulty, secret):
    """One port for many registries: what the name is taken from also decides where the request goes."""
    manifests(faulty, latest=NOW)
    http = """map $arg_ns $name { default ""; "" registry.example; registry.example registry.example; other.example other.example; }"""
    nginx = cache(faulty.port, api=secret, http=http, server='if ($name = "") { return 404; }',
                  observe=f"keel on; keel_registry $name names={REGISTRY},other.example;")  # fmt: skip
    nginx.hold(TAG, HELD)
    for query, digest in (("", HELD), (f"?ns={REGISTRY}", HELD), ("?ns=", HELD), (f"?ns={REGISTRY}&ns=other.example", HELD),
                          (f"?NS={REGISTRY}", HELD), ("?ns=other.example", NOW), (f"?ns=other.example&ns={REGISTRY}", NOW)):  # fmt: skip
        status, headers, _ = ask(nginx, f"/v2/app/manifests/latest{query}")
        assert (status, headers["Docker-Content-Digest"], mark(headers)) == (200, digest, [HELD] if digest == HELD else None), query
        assert faulty.asked[-1][1].endswith(query)  # the arguments go on
    for query in ("?ns=nowhere.example", "?ns=registry%2eexample", "?ns=REGISTRY.example%00"):
        before = len(faulty.asked)
        assert ask(nginx, f"/v2/app/manifests/latest{query}")[0] == 404, query
        assert len(faulty.asked) == before, f"{query}: nobody was asked for what has no name here"
        status, headers, _ = ask(nginx, f"/v2/app/manifests/latest{query}")
        assert status == 404 or headers["Docker-Content-Digest"] == HELD, query


# --- where it applies ---


def test_on_where_keel_is_on_and_as_the_directive_says(cache, faulty, secret):
    manifests(faulty, latest=NOW)
    ports = {name: free_port() for name in ("off", "alone", "inner", "without")}
    proxy = "proxy_pass http://registry;"
    http = f"""
        server {{ listen 127.0.0.1:{ports['off']}; keel on; keel_registry {REGISTRY}; keel_hold off; location /v2/ {{ {proxy} }} }}
        server {{ listen 127.0.0.1:{ports['alone']}; keel_registry {REGISTRY}; keel_hold on; location /v2/ {{ {proxy} }} }}
        server {{ listen 127.0.0.1:{ports['inner']}; keel on; keel_registry {REGISTRY}; keel_hold off; location /v2/ {{ keel_hold on; {proxy} }} }}
        server {{ listen 127.0.0.1:{ports['without']}; location /v2/ {{ {proxy} }} }}"""
    nginx = cache(faulty.port, api=secret, http=http)
    nginx.hold(TAG, HELD)
    for name, digest in (("off", NOW), ("alone", HELD), ("inner", HELD), ("without", NOW)):
        _, headers, _ = get(ports[name], "/v2/app/manifests/latest", "GET", [("Accept", ACCEPT)])
        assert (headers["Docker-Content-Digest"], mark(headers)) == (digest, [HELD] if digest == HELD else None), name
    assert nginx.tag()["digest"] == NOW  # seen where it is not held, as keeld's look-ups do


@pytest.mark.parametrize("lines", ["error_page 418 = @early; return 418;", "try_files /none @early;", "rewrite ^(.*)$ $1 break;", "rewrite ^/v2/(.*)$ /v2/$1 break;"])
def test_early_redirects_are_held_too(cache, faulty, secret, lines):
    """`return 418` and its like lead away before any handler has looked."""
    manifests(faulty, latest=NOW)
    nginx = cache(faulty.port, api=secret, server="location @early { proxy_pass http://registry; }", location=lines)
    ask(nginx)
    assert nginx.tag()["digest"] == NOW
    nginx.hold(TAG, HELD)
    _, headers, _ = ask(nginx)
    assert (headers["Docker-Content-Digest"], mark(headers)) == (HELD, [HELD])


@pytest.mark.parametrize("lines", ["try_files /none @here;", "error_page 418 = @here; return 418;", "error_page 502 = @here; proxy_pass http://127.0.0.1:1;",
                                   "error_page 403 = @here; deny all;"])
def test_first_location_that_answers_holds_decides(cache, faulty, secret, lines):
    """Not the one before it, which has no part in them."""
    manifests(faulty, latest=NOW)
    port = free_port()
    http = f"""server {{ listen 127.0.0.1:{port}; location / {{ {lines} }}
        location @here {{ keel on; keel_registry {REGISTRY}; proxy_pass http://registry; }} }}"""
    nginx = cache(faulty.port, api=secret, http=http)
    nginx.hold(TAG, HELD)
    _, headers, _ = get(port, "/v2/app/manifests/latest", "GET", [("Accept", ACCEPT)])
    assert (headers["Docker-Content-Digest"], mark(headers)) == (HELD, [HELD])
    assert nginx.tags() == {} and nginx.holds()[1][TAG]["answers"] == "1"


@pytest.mark.parametrize("lines", ["auth_request /auth;", "mirror /mirror;", "slice 16; proxy_set_header Range $slice_range;"])
def test_subrequests_take_nothing_from_a_hold(cache, faulty, secret, lines):
    """auth_request, mirror and slice ask beside the client's request: the answer is held all the same, and counted once."""
    manifests(faulty, latest=NOW)
    server = "location /auth { internal; return 204; } location /mirror { internal; proxy_pass http://registry$request_uri; }"
    nginx = cache(faulty.port, api=secret, server=server, location=lines)
    nginx.hold(TAG, HELD)
    for method in ("GET", "HEAD"):
        _, headers, _ = ask(nginx, method=method)
        assert (headers["Docker-Content-Digest"], mark(headers)) == (HELD, [HELD])
    hold = nginx.holds()[1][TAG]
    assert (hold["answers"], hold["ineffective"], nginx.tags()) == ("2", "0", {})


def test_path_of_named_captures_is_ineffective_and_counted(cache, faulty, secret):
    """What the location's expression has captured is what the client wrote."""
    manifests(faulty, latest=NOW)
    port = free_port()
    http = f"""server {{ listen 127.0.0.1:{port}; keel on; keel_registry {REGISTRY};
        location ~ ^/v2/(?<repository>.+)/manifests/(?<reference>.+)$ {{ proxy_pass http://registry/v2/$repository/manifests/$reference; }} }}"""
    nginx = cache(faulty.port, api=secret, http=http)
    nginx.hold(TAG, HELD)
    _, headers, _ = get(port, "/v2/app/manifests/latest", "GET", [("Accept", ACCEPT)])
    assert (headers["Docker-Content-Digest"], mark(headers)) == (NOW, None)
    assert nginx.holds()[1][TAG]["ineffective"] == "1"


@pytest.mark.parametrize("status", [404, 500, 502, 503])
def test_fallback_is_asked_by_digest_too(cache, faulty, secret, status):
    manifests(faulty, latest=NOW)
    broken = free_port()
    server = f"""location @fb {{ proxy_pass http://registry; }}
                 location /failing/ {{ return {status}; }}"""
    http = f"server {{ listen 127.0.0.1:{broken}; location / {{ return {status}; }} }}"
    nginx = cache(broken, api=secret, http=http + f"upstream second {{ server 127.0.0.1:{faulty.port}; }}",
                  server=server.replace("http://registry", "http://second"),
                  location=f"proxy_intercept_errors on; error_page {status} = @fb;")  # fmt: skip
    nginx.hold(TAG, HELD)
    for _ in range(3):
        got, headers, _ = ask(nginx)
        assert (got, headers["Docker-Content-Digest"], mark(headers)) == (200, HELD, [HELD])
    assert {path for _, path, _ in faulty.asked} == {f"/v2/app/manifests/{HELD}"}
    assert nginx.holds()[1][TAG]["answers"] == "3" and nginx.tags() == {}


def test_http2(cache, faulty, secret):
    manifests(faulty, latest=NOW)
    port = free_port()
    http = f"server {{ listen 127.0.0.1:{port} http2; keel on; keel_registry {REGISTRY}; location /v2/ {{ proxy_pass http://registry; }} }}"
    nginx = cache(faulty.port, api=secret, http=http)
    nginx.hold(TAG, HELD)
    url = f"http://127.0.0.1:{port}/v2/app/manifests/latest"
    answer = subprocess.run([program("curl"), "-sS", "-D", "-", "--http2-prior-knowledge", "-H", f"Accept: {ACCEPT}", url],
                            capture_output=True, text=True, timeout=20, check=True).stdout  # fmt: skip
    assert answer.startswith("HTTP/2 200") and f"x-keel-hold: {HELD}" in answer and NOW not in answer


# --- answers that are no success ---


def test_not_modified_and_a_narrow_accept_say_nothing_against_the_hold(cache, upstream, repository, secret):
    held = push(upstream, repository, "latest", "old", "index")
    push(upstream, repository, "latest", "new", "index")
    nginx = cache(api=secret)
    tag = f"{REGISTRY}/{repository}:latest"
    nginx.hold(tag, held)
    path = f"/v2/{repository}/manifests/latest"
    status, headers, _ = ask(nginx, path, headers=[("Accept", ACCEPT), ("If-None-Match", f'"{held}"')])
    assert (status, mark(headers)) == (304, [held])
    assert ask(nginx, path, headers=[])[0] == 404
    assert ask(nginx, path, headers=[("Accept", DOCKER_MANIFEST)])[0] == 404
    hold = nginx.holds()[1][tag]
    assert (hold["answers"], hold["unfetchable"], hold["ineffective"]) == ("1", "0", "0")


@pytest.mark.parametrize("status, counts", [(404, 1), (500, 1), (503, 1), (429, 1), (403, 1), (401, 0), (307, 0), (416, 0)])
def test_upstream_that_does_not_give_the_held_digest(nginx, faulty, status, counts):
    faulty.answer = lambda method, path: (status, {"Location": "http://x/"} if status == 307 else {}, b"{}")
    got, headers, _ = ask(nginx)
    assert (got, mark(headers)) == (status, [HELD])
    hold = nginx.holds()[1][TAG]
    assert (hold["answers"], hold["unfetchable"], hold["ineffective"]) == ("0", str(counts), "0")
    assert nginx.api("status")[1]["holds"]["unfetchable"] == counts
    assert nginx.counters()[f'keel_hold_unfetchable_total{{tag="{TAG}"}}'] == counts
    assert ("which the upstream answered with" in nginx.errors()) == bool(counts)


@pytest.mark.parametrize("lines", ["allow 127.0.0.2; deny all;", "limit_req zone=one;"])
def test_what_nginx_refuses_by_itself_says_nothing_of_the_hold(cache, faulty, secret, lines):
    manifests(faulty, latest=NOW)
    nginx = cache(faulty.port, api=secret, http="limit_req_zone $server_port zone=one:64k rate=1r/m;", location=lines)
    nginx.hold(TAG, HELD)
    statuses = [ask(nginx)[0] for _ in range(3)]
    assert statuses[1:] in ([403, 403], [503, 503])
    assert nginx.holds()[1][TAG]["unfetchable"] == "0"


def test_digest_that_is_gone_upstream_and_collected_in_the_cache(tmp_path, cache, secret, receiver):
    """The hold fails open: the tag is answered with an error, which is counted and told."""
    with Registry(tmp_path / "up", "up") as up:
        with Registry(tmp_path / "proxy", "proxy", proxy_of=up.url) as proxy:
            held = push(up, "app", "latest", "old")
            nginx = cache(proxy.port, api=secret, companion=receiver.url)
            nginx.hold(TAG, held)
            assert nginx.pull(method="GET").digest == held
            push(up, "app", "latest", "new")
            up.delete_manifest("app", held)
            assert nginx.pull(method="GET").digest == held  # from the cache's own store
            port = proxy.port
            proxy.stop()
            subprocess.run([program("docker-registry"), "garbage-collect", "-m", proxy.config], check=True, capture_output=True, timeout=60)
            subprocess.run(["rm", "-rf", str(proxy.folder / "proxy")], check=True)
            proxy.start().wait_ready()
            assert proxy.port == port
            answer = nginx.pull(method="GET")
            assert answer.status >= 400 and not answer.digest
            assert nginx.holds()[1][TAG]["unfetchable"] == "1"
            news = wait_for("told", lambda: hold_events(receiver, "unfetchable"))
            assert (news[0]["tag"], news[0]["digest"], news[0]["revision"]) == (TAG, held, "1")
            assert "clients that have another way to the registry will take it" in nginx.errors()


# --- where it cannot work ---


def test_proxy_pass_with_the_clients_uri_is_ineffective_and_told(cache, faulty, secret, receiver):
    manifests(faulty, latest=NOW)
    nginx = cache(faulty.port, api=secret, companion=receiver.url)
    nginx.config.write_text(nginx.config.read_text().replace("proxy_pass http://registry;", "proxy_pass http://registry$request_uri;"))
    nginx.reload()
    nginx.hold(TAG, HELD)
    _, headers, _ = ask(nginx)
    assert (headers["Docker-Content-Digest"], mark(headers)) == (NOW, None)  # it is not from the hold, and does not say so
    hold = nginx.holds()[1][TAG]
    assert (hold["answers"], hold["ineffective"]) == ("0", "1")
    assert nginx.api("status")[1]["holds"]["ineffective"] == 1
    assert "the hold is ineffective here" in nginx.errors()
    assert nginx.tags() == {}
    assert wait_for("told", lambda: hold_events(receiver, "ineffective"))[0]["tag"] == TAG


def cached(key="", more=""):
    return ("proxy_cache_path {0}/cache keys_zone=manifests:1m;",
            f"proxy_cache manifests; proxy_cache_valid 200 1h; {f'proxy_cache_key {key};' if key else ''} {more}")  # fmt: skip


def test_manifest_cache_by_the_clients_uri_is_ineffective_and_told(cache, faulty, secret, tmp_path):
    """Held or not, the key is the same; an entry made under the hold would also outlive it."""
    manifests(faulty, latest=NOW)
    http, location = cached("$scheme$proxy_host$request_uri")
    nginx = cache(faulty.port, api=secret, http=http.format(tmp_path), location=location)
    assert ask(nginx)[1]["Docker-Content-Digest"] == NOW
    nginx.hold(TAG, HELD)
    _, headers, _ = ask(nginx)
    assert (headers["Docker-Content-Digest"], mark(headers)) == (NOW, None)
    assert nginx.holds()[1][TAG]["ineffective"] == "1"
    assert "the hold is ineffective here" in nginx.errors()


@pytest.mark.parametrize("key", ["", "$proxy_host$uri$is_args$args$http_accept"])
def test_manifest_cache_by_what_is_asked_upstream_holds(cache, faulty, secret, tmp_path, key):
    """The default key is such a one."""
    manifests(faulty, latest=NOW)
    http, location = cached(key)
    nginx = cache(faulty.port, api=secret, http=http.format(tmp_path), location=location)
    assert ask(nginx)[1]["Docker-Content-Digest"] == NOW
    before = observed(nginx)
    nginx.hold(TAG, HELD)
    for _ in range(3):
        _, headers, _ = ask(nginx)
        assert (headers["Docker-Content-Digest"], mark(headers)) == (HELD, [HELD])
    assert observed(nginx) == before and nginx.holds()[1][TAG]["answers"] == "3"
    nginx.release(TAG)
    _, headers, _ = ask(nginx)
    assert (headers["Docker-Content-Digest"], mark(headers)) == (NOW, None)


def test_background_update_asks_by_digest_and_records_nothing(cache, faulty, secret, tmp_path):
    manifests(faulty, {"Cache-Control": "max-age=1"}, latest=NOW)
    http, location = cached("$proxy_host$uri$http_accept", "proxy_cache_use_stale updating; proxy_cache_background_update on;")
    nginx = cache(faulty.port, api=secret, http=http.format(tmp_path), location=location.replace("proxy_cache_valid 200 1h;", ""))
    nginx.hold(TAG, HELD)
    before = observed(nginx)

    def updated():
        _, headers, _ = ask(nginx)
        assert (headers["Docker-Content-Digest"], mark(headers)) == (HELD, [HELD])
        return len(faulty.asked) >= 3

    wait_for("two updates", updated)
    assert {path for _, path, _ in faulty.asked} == {f"/v2/app/manifests/{HELD}"}
    assert observed(nginx) == before
    assert nginx.holds()[1][TAG]["ineffective"] == "0"


# --- events ---


def hold_events(receiver, what=None):
    """The data of the events of holds that were taken."""
    found = [event["data"] for event in receiver.events() if event["type"] == "io.ngx-keel.hold"]
    return [data for data in found if what in (None, data["event"])]


def test_companions_are_told(cache, faulty, secret, receiver):
    manifests(faulty, latest=NOW)
    nginx = cache(faulty.port, api=secret, companion=receiver.url)
    ask(nginx)
    nginx.hold(TAG, HELD)
    nginx.hold(TAG, NOW, until=utc(3600))
    nginx.release(TAG)
    wait_for("told", lambda: len(hold_events(receiver)) >= 4)
    assert [(data["event"], data["tag"], data["digest"], data["revision"]) for data in hold_events(receiver)] == [
        ("set", TAG, HELD, "1"), ("set", TAG, NOW, "2"), ("expiring", TAG, NOW, "2"), ("lifted", TAG, NOW, "3")]  # fmt: skip
    events = [event for event in receiver.events() if event["type"] == "io.ngx-keel.hold"]
    assert len({event["id"] for event in events}) == 4
    assert {(event["source"], event["subject"], event["specversion"]) for event in events} == {("/caches/cache-t", TAG, "1.0")}


def test_companion_that_does_not_know_them_still_gets_the_tags(cache, faulty, secret, receiver):
    manifests(faulty, latest=NOW)
    receiver.behaviour = lambda events: 400 if any(event["type"] != "io.ngx-keel.tag" for event in events) else 204
    nginx = cache(faulty.port, api=secret, companion=receiver.url)
    for i in range(5):
        nginx.hold(f"{REGISTRY}/app:t{i}", HELD)
    manifests(faulty, latest=digest_of("next"))
    ask(nginx)
    receiver.wait(TAG, digest_of("next"), 5)


def test_companion_that_is_away_for_a_while_gets_the_last_ones(cache, faulty, secret, receiver):
    manifests(faulty, latest=NOW)
    port = receiver.port
    nginx = cache(faulty.port, api=secret, companion=receiver.url)
    receiver.stop()
    nginx.hold(TAG, HELD)
    wait_for("failed", lambda: int(nginx.api("status")[1]["companions"][0]["failures"]) > 0)
    assert receiver.port == port
    receiver.start()
    assert wait_for("told", lambda: hold_events(receiver))[0]["event"] == "set"


# --- the end of a hold ---


def test_hold_ends_by_itself(cache, faulty, secret, receiver):
    manifests(faulty, latest=NOW)
    nginx = cache(faulty.port, api=secret, companion=receiver.url)
    nginx.hold(TAG, HELD, until=utc(2))
    assert nginx.pull().digest == HELD
    end = nginx.holds()[1][TAG]["until"]

    def over():
        before, digest, after = utc(), nginx.pull().digest, utc()
        assert digest == HELD if after < end else digest == NOW if before > end else digest in (HELD, NOW)
        return digest == NOW

    wait_for("its end", over, 10)
    assert nginx.holds()[1] == {}
    wait_for("lifted", lambda: nginx.holds()[0] == 2)
    assert wait_for("told", lambda: hold_events(receiver, "lifted"))[0] == {"tag": TAG, "digest": HELD, "event": "lifted", "revision": "2"}
    assert nginx.api("status")[1]["holds"]["count"] == 0


def test_hold_that_ends_while_nginx_is_away_is_over(cache, faulty, secret):
    manifests(faulty, latest=NOW)
    nginx = cache(faulty.port, api=secret)
    nginx.hold(TAG, HELD, until=utc(1))
    nginx.stop()
    wait_for("its end", lambda: utc(-1.1) > json.loads((nginx.state / "holds").read_text().split("\n")[1])["holds"][0]["until"] or
             utc() > json.loads((nginx.state / "holds").read_text().split("\n")[1])["holds"][0]["until"])  # fmt: skip
    nginx.start().wait_ready()
    assert nginx.pull().digest == NOW and nginx.holds()[1] == {}
    wait_for("lifted", lambda: nginx.holds()[0] == 2)


def test_end_is_announced_a_day_before(cache, faulty, secret, receiver):
    nginx = cache(faulty.port, api=secret, companion=receiver.url)
    nginx.hold(TAG, HELD, until=utc(86400 + 2))
    nginx.hold(f"{REGISTRY}/app:later", HELD, until=utc(86400 + 3600))
    wait_for("both set", lambda: len(hold_events(receiver, "set")) == 2)
    assert hold_events(receiver, "expiring") == []
    assert wait_for("announced", lambda: hold_events(receiver, "expiring"))[0]["tag"] == TAG
    nginx.hold(f"{REGISTRY}/app:more", HELD)
    wait_for("set", lambda: len(hold_events(receiver, "set")) == 3)
    assert [data["tag"] for data in hold_events(receiver, "expiring")] == [TAG]  # once, and not the other


# --- every process sees the same ---


class Traffic:
    """Pulls the tag all the time; the digests that came, in order, once each in a row."""

    def __init__(self, port, threads=4):
        self.port, self.stop, self.lock, self.bad, self.seen = port, threading.Event(), threading.Lock(), [], 0
        self.expected = None
        self.threads = [threading.Thread(target=self.run, daemon=True) for _ in range(threads)]

    def run(self):
        while not self.stop.is_set():
            before = self.expected
            try:
                _, headers, _ = get(self.port, "/v2/app/manifests/latest", "HEAD", [("Accept", ACCEPT)])
            except OSError:
                continue  # a worker was killed under it
            except Exception as error:
                self.bad.append(repr(error))
                continue
            if before is not None and before == self.expected:
                with self.lock:
                    self.seen += 1
                    if headers["Docker-Content-Digest"] != before:
                        self.bad.append((headers["Docker-Content-Digest"], before))

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join(20)

    def set(self, nginx, digest):
        """Changes the hold; from the answer on nobody may see anything else."""
        self.expected = None
        nginx.hold(TAG, digest)
        self.expected = digest
        seen = self.seen
        wait_for("some requests", lambda: self.seen >= seen + 20)


def test_e3_same_holds_over_reloads(cache, faulty, tmp_path):
    """A hold is set before each reload, and another in the middle of it; KEEL_HOLD_RELOADS says how many."""
    manifests(faulty, latest=NOW)
    socket, other = tmp_path / "api.sock", f"{REGISTRY}/app:other"  # unsigned: signed requests are counted
    nginx = cache(faulty.port, socket=socket)

    def hold(tag, digest):
        while True:
            try:
                status, answer, _ = nginx.call("PUT", f"holds/{tag}", {"digest": digest}, key=None, socket=socket, revision=nginx.holds()[0])
            except (OSError, http.client.HTTPException):
                continue  # the connection's worker was told to go
            if status != 412:  # or the write before it was taken, and its answer lost
                assert status == 200, answer
                return

    nginx.hold = hold
    with Traffic(nginx.port) as traffic, concurrent.futures.ThreadPoolExecutor(1) as pool:
        for i in range(int(os.environ.get("KEEL_HOLD_RELOADS", 20))):
            traffic.set(nginx, digest_of(f"generation {i}"))
            written = pool.submit(hold, other, digest_of(f"other {i}"))
            nginx.reload()
            written.result(30)
            assert nginx.holds()[1][other]["digest"] == digest_of(f"other {i}")
    assert traffic.bad == []


def test_e3_same_holds_while_helper_and_workers_are_killed(nginx):
    nginx.allowed = [r"process \d+ exited on signal 9"]
    with Traffic(nginx.port) as traffic:
        for i in range(6):
            traffic.set(nginx, digest_of(f"generation {i}"))
            victim = nginx.helper() if i % 2 else nginx.workers_now()[0]
            os.kill(victim, signal.SIGKILL)
            wait_for("another", lambda: victim not in nginx.children() and len(nginx.workers_now()) == 2 and nginx.helper())
    assert traffic.bad == []


class Torn:
    """Spoils, again and again, what nginx's processes share about holds, as if it were written all the time."""

    TEXT = 16 + (1 << 20)  # of hold_board.h: magic, the directory's name, the number, two texts
    NUMBER = 8 + 4096

    def __init__(self, nginx):
        folder = f"/proc/{nginx.pid}/fd"
        [number] = [n for n in os.listdir(folder) if "memfd:keel-holds" in os.readlink(f"{folder}/{n}")]
        with open(f"{folder}/{number}", "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 0)
        assert len(self.memory) == self.NUMBER + 8 + 2 * self.TEXT
        self.stop, self.thread = threading.Event(), threading.Thread(target=self.run, daemon=True)

    def spoil(self):
        for text in range(2):
            at = self.NUMBER + 8 + text * self.TEXT + 200
            self.memory[at:at + 8] = os.urandom(8)
        number = int.from_bytes(self.memory[self.NUMBER:self.NUMBER + 8], "little") + 2
        self.memory[self.NUMBER:self.NUMBER + 8] = number.to_bytes(8, "little")

    def run(self):
        while not self.stop.wait(0.001):
            self.spoil()

    def __enter__(self):
        self.spoil()
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join(20)


def used(nginx):
    """Seconds of the processor that the workers have had."""
    fields = [open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split() for pid in nginx.workers_now()]
    return sum(int(field[11]) + int(field[12]) for field in fields) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("worker", ["that knew them", "that comes up"])
def test_e3_holds_that_cannot_be_read_stay_in_force_in_a_worker(nginx, worker):
    """A worker passes no held tag and does not try for ever; it follows again as soon as it can."""
    nginx.allowed = [r"process \d+ exited on signal 9"]
    nginx.reload()  # what a new worker begins with is what the master has read
    assert {ask(nginx)[1]["Docker-Content-Digest"] for _ in range(20)} == {HELD}
    with Torn(nginx):
        before = nginx.workers_now()
        if worker == "that comes up":
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            wait_for("new workers", lambda: not set(before) & set(nginx.workers_now()) and len(nginx.workers_now()) == 2)
        begun, spent, answers, count = time.monotonic(), used(nginx), set(), 0
        while "what is posted cannot be read" not in nginx.errors() or time.monotonic() < begun + 1.5:
            answers.add(ask(nginx)[1]["Docker-Content-Digest"])
            count += 1
            assert time.monotonic() < begun + 20
        assert answers == {HELD} and count > 20
        assert used(nginx) - spent < 0.8 * (time.monotonic() - begun)
    assert nginx.errors().count("what is posted cannot be read") <= 4  # of two workers, in ten seconds
    nginx.hold(TAG, digest_of("then"))
    wait_for("the next", lambda: {ask(nginx)[1]["Docker-Content-Digest"] for _ in range(20)} == {digest_of("then")}, 5)


def children(pid):
    try:
        return [int(child) for child in open(f"/proc/{pid}/task/{pid}/children").read().split()]
    except OSError:
        return []


def gone(pid):
    """Nobody has waited for it yet where the container's first process does not."""
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def test_e3_same_holds_in_both_generations_of_a_binary_upgrade(cache, faulty, secret):
    """USR2, both at work, WINCH, and back again: whichever generation takes a write, every request sees it."""
    manifests(faulty, latest=NOW)
    nginx = cache(faulty.port, api=secret, start=False)
    nginx.config.write_text(nginx.config.read_text().replace("daemon off;", "daemon on;"))  # only such a one takes USR2
    subprocess.run([str(word) for word in nginx.command()], check=True, timeout=20)
    masters = []

    def master():
        text = (nginx.folder / "nginx.pid").read_text().strip() if (nginx.folder / "nginx.pid").exists() else ""
        return int(text) if text and int(text) not in masters else None

    try:
        masters.append(wait_for("master", master))
        wait_for("it answers", nginx.ready)
        with Traffic(nginx.port) as traffic:
            traffic.set(nginx, digest_of("before"))
            os.kill(masters[0], signal.SIGUSR2)
            masters.append(wait_for("new master", master))
            wait_for("its workers", lambda: len(children(masters[1])) >= 3)
            epochs = set()
            for i in range(20):
                traffic.set(nginx, digest_of(f"both {i}"))
                epochs.add(nginx.api("status")[1]["epoch"])
            wait_for("both answer", lambda: epochs.add(nginx.api("status")[1]["epoch"]) or len(epochs) == 2)
            before = set(children(masters[0]))
            os.kill(masters[0], signal.SIGWINCH)
            wait_for("the old one serves no more", lambda: set(children(masters[0])) == {masters[1]})
            traffic.set(nginx, digest_of("after WINCH"))
            os.kill(masters[0], signal.SIGHUP)
            wait_for("the old one serves again", lambda: len(children(masters[0])) >= len(before))
            os.kill(masters[1], signal.SIGQUIT)
            wait_for("the new one is gone", lambda: gone(masters[1]))
            traffic.set(nginx, digest_of("rolled back"))
        assert traffic.bad == []
        assert traffic.seen >= 20 * 23
    finally:
        for pid in masters:
            if not gone(pid):
                os.kill(pid, signal.SIGTERM)
        for pid in masters:
            wait_for(f"the end of {pid}", lambda: gone(pid))


# --- the file ---


def file_of(revision, holds):
    """A file of holds, written from doc/holds.md and not from our code."""
    body = json.dumps({"revision": str(revision), "holds": holds}).encode()
    return f"ngx-keel-holds 1 {revision} {hashlib.sha256(body).hexdigest()}\n".encode() + body


def entry(digest=HELD, tag=TAG):
    return {"tag": tag, "digest": digest, "author": "root", "owner": "root", "reason": "by hand", "since": utc(), "until": None, "verified": None}


def test_file_is_as_documented(nginx):
    data = (nginx.state / "holds").read_bytes()
    line, body = data.split(b"\n", 1)
    assert line.decode() == f"ngx-keel-holds 1 1 {hashlib.sha256(body).hexdigest()}"
    [hold] = json.loads(body)["holds"]
    shown = nginx.holds()[1][TAG]
    assert hold == {key: shown[key] for key in hold} and set(shown) - set(hold) == {"answers", "unfetchable", "ineffective"}
    for name in ("holds", "lock"):
        assert (nginx.state / name).stat().st_mode & 0o777 == 0o600


def put(nginx, data):
    (nginx.state / "new").write_bytes(data)
    os.replace(nginx.state / "new", nginx.state / "holds")


def test_file_put_there_is_followed_within_a_second_or_two(nginx):
    put(nginx, file_of(7, [entry(digest_of("by hand"))]))
    wait_for("followed", lambda: nginx.pull().digest == digest_of("by hand"), 5)
    wait_for("every worker", lambda: {nginx.pull().digest for _ in range(20)} == {digest_of("by hand")}, 5)
    assert nginx.holds()[0] == 7
    nginx.hold(f"{REGISTRY}/app:other", HELD)
    assert nginx.holds()[0] == 8
    (nginx.state / "holds").unlink()  # the way out for somebody without a secret
    wait_for("no holds", lambda: {nginx.pull().digest for _ in range(20)} == {NOW}, 5)
    nginx.hold(TAG, HELD)
    assert nginx.holds()[0] == 9 and {nginx.pull().digest for _ in range(20)} == {HELD}


BAD = {
    "empty": b"", "torn": None, "altered": None, "foreign": b"127.0.0.1 localhost\n", "another version": file_of(9, []).replace(b" 1 9", b" 2 9"),
    "no checksum": b'ngx-keel-holds 1 9 0\n{"revision":"9","holds":[]}', "good checksum, bad content": file_of(9, [{"tag": "x"}]),
    "two of one tag": file_of(9, [entry(), entry()]), "huge": b"x" * (1 << 21), "binary": bytes(range(256)) * 8,
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("running", [True, False])
def test_e3_bad_file_is_set_aside_and_never_trusted(nginx, kind, running):
    good = (nginx.state / "holds").read_bytes()
    bad = BAD[kind] if BAD[kind] is not None else good[:-5] if kind == "torn" else good.replace(HELD.encode(), NOW.encode())
    if not running:
        nginx.stop()
    put(nginx, bad)
    if not running:
        nginx.start().wait_ready()
    aside = nginx.state / "holds.bad-1"
    wait_for("set aside", aside.exists, 5)
    assert aside.read_bytes() == bad
    # What the helper knew it has written again; one that has just come up knew nothing.
    digest = HELD if running else NOW
    wait_for("the whole story", lambda: "set aside as" in (nginx.api("status")[1]["holds"]["problem"] or ""))
    wait_for("every worker follows it", lambda: {nginx.pull().digest for _ in range(10)} == {digest}, 5)
    revision, held = nginx.holds()
    assert revision == 2 if running else revision > 1_000_000_000  # none that was there before comes again
    assert list(held) == ([TAG] if running else [])
    assert "the file of holds was set aside" in nginx.errors() and (nginx.state / "holds").exists()
    nginx.hold(TAG, digest_of("anew"))
    assert {nginx.pull().digest for _ in range(10)} == {digest_of("anew")}
    assert nginx.api("status")[1]["holds"]["problem"] is None


def test_e3_things_that_are_no_files(nginx):
    path = nginx.state / "holds"
    path.unlink()
    path.symlink_to("/etc/hostname")
    wait_for("set aside", (nginx.state / "holds.bad-1").is_symlink, 5)
    nginx.hold(TAG, HELD)
    path.unlink()
    path.mkdir()
    wait_for("set aside", (nginx.state / "holds.bad-2").is_dir, 5)
    nginx.hold(TAG, HELD)
    for i in range(5):
        nginx.hold(TAG, digest_of(i))
        wait_for("followed", lambda: {nginx.pull().digest for _ in range(10)} == {digest_of(i)}, 5)


@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_e3_disk_that_takes_nothing(cache, faulty, secret, disk, fault):
    manifests(faulty, latest=NOW)
    nginx = cache(faulty.port, api=secret, state=disk / "state")
    nginx.hold(TAG, HELD)
    if fault == "full":
        with open(disk / "fill", "wb", 0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                pass
    else:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    before = nginx.holds()
    for method, body in (("PUT", {"digest": NOW}), ("DELETE", None)):
        status, answer, _ = nginx.call(method, f"holds/{TAG}", body, revision=1)
        assert (status, answer["error"]["code"]) == (507, "not-written"), answer
    assert nginx.holds() == before and {nginx.pull().digest for _ in range(10)} == {HELD}
    assert re.search("No space left|Read-only", nginx.api("status")[1]["holds"]["problem"])
    nginx.reload()
    assert nginx.holds()[0] == 1 and {nginx.pull().digest for _ in range(10)} == {HELD}
    if fault == "full":
        (disk / "fill").unlink()
    else:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    nginx.hold(TAG, digest_of("room again"))
    assert {nginx.pull().digest for _ in range(10)} == {digest_of("room again")}
    assert not list((disk / "state").glob("*.tmp"))


def test_e3_file_that_cannot_be_read_is_never_written_over(cache, faulty, secret, tmp_path):
    """Not known is not the same as not held."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o711)  # for the user of the workers
    manifests(faulty, latest=NOW)
    nginx = cache(faulty.port, api=secret, start=False)
    nginx.config.write_text(nginx.config.read_text().replace("user root;", "user www-data;"))
    nginx.start().wait_ready()
    nginx.hold(TAG, HELD)
    file = nginx.state / "holds"
    shutil.chown(file, "root")
    content = file.read_bytes()
    nginx.reload()
    wait_for("a helper that cannot read it", lambda: nginx.api("status")[1]["holds"]["problem"])
    assert nginx.holds()[0] == 1 and {nginx.pull().digest for _ in range(10)} == {HELD}  # what was known stays
    for revision in (0, 1):
        status, answer, _ = nginx.call("PUT", "holds/registry.example/other:latest", {"digest": NOW}, revision=revision)
        assert (status, answer["error"]["code"]) == (507, "not-written"), answer
    assert file.read_bytes() == content
    shutil.chown(file, "www-data")
    wait_for("a helper that can", lambda: not nginx.api("status")[1]["holds"]["problem"])
    assert nginx.holds()[0] == 1 and {nginx.pull().digest for _ in range(10)} == {HELD}


def test_e3_workers_need_neither_the_disk_nor_the_helper(nginx):
    """Everything in the directory cut short and then the directory away, with nobody there to mend it: pulls go on, held."""
    nginx.allowed = [r"process \d+ exited on signal 9"]
    with nginx.stopped_helper():
        for path in nginx.state.iterdir():
            os.truncate(path, 0)
        assert {nginx.pull().digest for _ in range(20)} == {HELD}
        away = nginx.state.with_name("away")
        nginx.state.rename(away)
        victim = nginx.workers_now()[0]
        os.kill(victim, signal.SIGKILL)
        wait_for("another worker", lambda: victim not in nginx.children() and len(nginx.workers_now()) == 2)
        assert {nginx.pull().digest for _ in range(40)} == {HELD}
        away.rename(nginx.state)
    # The helper comes back to a file that is empty, and writes again what it knows.
    wait_for("a revision that was written", lambda: nginx.holds()[0] == 2)
    assert (nginx.state / "holds").read_bytes().startswith(b"ngx-keel-holds 1 2 ")
    assert {nginx.pull().digest for _ in range(20)} == {HELD} and nginx.holds()[0] == 2


@pytest.mark.skipif("KEEL_SANITIZED" in os.environ, reason="AddressSanitizer wants to be the first library")
def test_write_that_the_disk_does_not_promise_is_not_reported_as_durable(tmp_path, cache, faulty, secret):
    """fsync() of the directory fails after the rename: the hold is in force and is there, and who set it hears of it."""
    source, library = tmp_path / "fsync.c", tmp_path / "fsync.so"
    source.write_text("""
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <errno.h>
        #include <sys/stat.h>
        int fsync(int descriptor) {
            struct stat status;
            if (fstat(descriptor, &status) == 0 && S_ISDIR(status.st_mode)) { errno = EIO; return -1; }
            return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(descriptor);
        }""")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    manifests(faulty, latest=NOW)
    nginx = cache(faulty.port, api=secret, start=False)
    nginx.environment = lambda: {**os.environ, "LD_PRELOAD": str(library)}
    nginx.start().wait_ready()
    status, answer, _ = nginx.call("PUT", f"holds/{TAG}", {"digest": HELD}, revision=0)
    assert (status, answer["error"]["code"]) == (507, "not-durable"), answer
    assert "Input/output error" in answer["error"]["text"] and "in force" in answer["error"]["text"]
    assert nginx.holds()[0] == 1 and {nginx.pull().digest for _ in range(10)} == {HELD}
    assert "Input/output error" in nginx.api("status")[1]["holds"]["problem"]


@pytest.mark.skipif("KEEL_SANITIZED" in os.environ, reason="AddressSanitizer wants to be the first library")
def test_e3_slow_disk_delays_no_pull_and_leaves_nothing_half_done(tmp_path, cache, faulty, secret):
    """Every fsync() takes seven seconds while a file is there: a write is answered in its five, pulls go on meanwhile, and
    afterwards the file is what the API says."""
    source, library, slow = tmp_path / "slow.c", tmp_path / "slow.so", tmp_path / "slow"
    source.write_text(f"""
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <unistd.h>
        int fsync(int descriptor) {{
            if (access("{slow}", F_OK) == 0) usleep(7000000);
            return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(descriptor);
        }}""")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    manifests(faulty, latest=NOW)
    nginx = cache(faulty.port, api=secret, start=False)
    nginx.environment = lambda: {**os.environ, "LD_PRELOAD": str(library)}
    nginx.start().wait_ready()
    nginx.hold(TAG, HELD)
    slow.touch()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        write = pool.submit(nginx.call, "PUT", f"holds/{TAG}", {"digest": NOW}, revision=1)
        longest, pulls = 0.0, 0
        while not write.done():
            asked = time.monotonic()
            assert nginx.pull().digest in (HELD, NOW)
            longest, pulls = max(longest, time.monotonic() - asked), pulls + 1
        status, answer, _ = write.result()
        took = time.monotonic() - began
    assert (status, answer["error"]["code"]) == (503, "not-written"), answer
    assert 4.5 < took < 8 and pulls > 20 and longest < 2, (took, pulls, longest)
    slow.unlink()
    # Whichever it came to be, everybody says the same of it, and the next write is one more.

    def written():
        return nginx.call("PUT", f"holds/{TAG}", {"digest": HELD, "reason": "again"}, revision=nginx.holds()[0])[0] == 200

    wait_for("the next write", written, 30)
    revision = nginx.holds()[0]
    assert (nginx.state / "holds").read_bytes().startswith(f"ngx-keel-holds 1 {revision} ".encode())
    assert {nginx.pull().digest for _ in range(20)} == {HELD}
    assert not [path.name for path in nginx.state.iterdir() if path.name.startswith("holds.")]


def test_lock_that_somebody_else_has_is_waited_for(nginx):
    script = "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(["/usr/bin/python3", "-c", script, str(nginx.state / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        status, answer, _ = nginx.call("PUT", f"holds/{TAG}", {"digest": NOW}, revision=1)
        assert (status, answer["error"]["code"]) == (503, "not-written")
        assert nginx.pull().digest == HELD
        other.stdin.close()
    assert nginx.hold(TAG, NOW)["digest"] == NOW
    assert nginx.holds()[0] == 2


# --- configuration ---


@pytest.mark.parametrize("options, text", [
    (dict(observe="keel_hold on;"), '"keel_hold on" in'), (dict(observe="keel_hold maybe;"), 'it must be "on" or "off"'),
    (dict(state="off", observe=f"keel on; keel_registry {REGISTRY}; keel_hold on;"), "a state directory"),
    (dict(api="secret=keeld"), "needs NAME:FILE"), (dict(api="secret=:x"), "needs NAME:FILE"), (dict(api="secret=a@b:x"), "needs NAME:FILE"),
    (dict(api="secret=keeld:/nowhere/secret"), "/nowhere/secret"), (dict(api="token=x"), "secret=NAME:FILE is known"),
])  # fmt: skip
def test_e2_wrong_directives_are_named(cache, faulty, options, text):
    nginx = cache(faulty.port, start=False, **options)
    done = subprocess.run([*nginx.command(), "-t"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 1 and text in done.stderr, done.stderr
    nginx.allowed = [r"\[emerg\]"]


def test_e2_secret_that_others_may_read(cache, faulty, tmp_path):
    path = tmp_path / "open.secret"
    path.write_text(secret_line(SECRET))
    path.chmod(0o644)
    nginx = cache(faulty.port, start=False, api=f"secret=keeld:{path}")
    done = subprocess.run([*nginx.command(), "-t"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 1 and "others may read or write it" in done.stderr
    nginx.allowed = [r"\[emerg\]"]
