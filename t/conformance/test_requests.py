"""E3: 10,000 requests of many kinds are answered with the same bytes with the module as without it, but for the date."""

import collections
import concurrent.futures
import contextlib
import gzip
import hashlib
import http.client
import io
import random
import re
import socket
import subprocess

import pytest
from module.cache import Cache, Upstream, digest_of, push, raw

from lab.ports import free_port
from lab.process import program, run
from lab.registry import ACCEPT, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Registry

REQUESTS = 10_000
SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"

CACHED = "proxy_cache manifests; proxy_cache_valid any 1m; proxy_cache_key $request_method$uri$http_accept$http_range;"
# What nginx does with an answer on its way: more lines for the location and the server. module: more for the module.
SHAPES = {
    "plain": {},
    "unbuffered": {"location": "proxy_buffering off;"},
    "gzip": {"location": "gzip on; gzip_types *; gzip_min_length 1; gzip_proxied any; gzip_http_version 1.0;"},
    "gunzip": {"location": "gunzip on; add_header X-Digest $upstream_http_docker_content_digest;"},
    "ranges": {"location": "proxy_force_ranges on;"},
    "intercepted": {"location": "proxy_intercept_errors on; error_page 404 429 503 = @other;",
                    "server": "location @other { return 418 'other'; }"},
    "retried": {"location": "proxy_intercept_errors on; error_page 404 = @again;",
                "server": "location @again { proxy_pass http://registry; }"},
    "cached": {"location": CACHED},
    "verified": {"module": "keel_verify on;"},
    "verified and cached": {"location": CACHED + "sendfile on;", "module": "keel_verify on;"},
}  # fmt: skip


def odd(blob):
    """What the upstream that is no real registry answers: {name of a manifest: answer}."""
    manifest = b'{"schemaVersion": 2, "mediaType": "%s", "layers": []}' % OCI_MANIFEST.encode()
    right = "sha256:" + hashlib.sha256(manifest).hexdigest()
    kind = {"Content-Type": OCI_MANIFEST}
    return {
        "no-digest": (200, kind, manifest),
        "right": (200, {**kind, "Docker-Content-Digest": right, "ETag": f'"{right}"'}, manifest),
        "wrong": (200, {**kind, "Docker-Content-Digest": digest_of("another")}, manifest),
        "malformed": (200, {**kind, "Docker-Content-Digest": "sha256:short"}, manifest),
        "twice": (200, [*kind.items(), ("Docker-Content-Digest", right), ("Docker-Content-Digest", digest_of(2))], manifest),
        "sha512": (200, {**kind, "Docker-Content-Digest": "sha512:" + hashlib.sha512(manifest).hexdigest()}, manifest),
        "legacy": (200, {"Content-Type": SCHEMA_1, "Docker-Content-Digest": right}, manifest),
        "zipped": (200, {**kind, "Docker-Content-Digest": right, "Content-Encoding": "gzip"}, gzip.compress(manifest, mtime=0)),
        "chunked": (200, {**kind, "Transfer-Encoding": "chunked"}, b"%x\r\n%b\r\n0\r\n\r\n" % (len(manifest), manifest)),
        "held-by-whom": (200, {**kind, "Docker-Content-Digest": right, "X-Other": "kept"}, manifest),
        "empty": (200, {**kind, "Docker-Content-Digest": digest_of("")}, b""),
        "large": (200, {"Content-Type": OCI_INDEX, "Docker-Content-Digest": digest_of(3)}, blob),
        "elsewhere": (307, {"Location": "http://other.example/v2/odd/manifests/elsewhere"}, b""),
        "limited": (429, {"Retry-After": "30", "RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "0;w=21600",
                          "docker-ratelimit-source": "192.0.2.1"}, b'{"errors": [{"code": "TOOMANYREQUESTS"}]}'),
        "rates": (200, {**kind, "Docker-Content-Digest": right, "RateLimit-Remaining": "76;w=21600"}, manifest),
        "login": (401, {"WWW-Authenticate": 'Bearer realm="https://auth.example/token",service="x"'}, b"{}"),
        "forbidden": (403, {}, b"{}"), "gone": (404, {}, b"{}"), "not-allowed": (405, {"Allow": "GET"}, b""),
        "broken": (500, {}, b"oops"), "down": (503, {"Retry-After": "5"}, b""), "not-modified": (304, {"ETag": f'"{right}"'}, b""),
    }  # fmt: skip


def mix(repository, digest, blob, names, number, seed):
    """That many (method, path, header lines): the same ones for the same seed."""
    dice = random.Random(seed)
    references = ["latest", "latest", "old", "latest?ns=docker.io", digest, "absent", f"sha256-{digest[7:]}.sig", "%6catest",
                  f"sha256:{'0' * 64}", "", "-bad", "latest/", "la%00test", "x" * 200, "../manifests/latest"]  # fmt: skip
    paths = [f"/v2/{repository}/manifests/{reference}" for reference in references]
    paths += [f"/v2/odd/manifests/{name}" for name in names] * 2
    paths += [f"/v2//{repository}/manifests/latest", f"/v2/{repository}/x/%2e%2e/manifests/latest", f"/v2/{repository}/blobs/{blob}",
              f"/v2/{repository}/blobs/{blob}?ns=quay.io", f"/v2/{repository}/blobs/sha256:{'1' * 64}", f"/v2/{repository}/tags/list",
              f"/v2/{repository}/tags/list?n=1", "/v2/", "/v2", "/v2/_catalog", "/elsewhere", "/", "/v2/%zz/manifests/x"]  # fmt: skip
    accepts = [f"Accept: {ACCEPT}", f"Accept: {ACCEPT}", f"Accept: {DOCKER_MANIFEST}", f"Accept: {OCI_MANIFEST}\r\nAccept: */*", ""]
    accepts.append("\r\n".join(f"Accept: {kind}" for kind in ACCEPT.split(", ")))
    extras = ["", "", "", f'If-None-Match: "{digest}"', 'If-None-Match: "other"', "If-None-Match: *", "Range: bytes=0-9",
              "Range: bytes=5-", "Range: bytes=-7", "Range: bytes=0-1,4-5", "Range: bytes=999999-", "Accept-Encoding: gzip",
              "Accept-Encoding: gzip, zstd", "If-Modified-Since: Mon, 01 Jan 2024 00:00:00 GMT", "X-Keel-Hold: none",
              "User-Agent: containerd/1.7", "User-Agent: keeld/0", "Authorization: Bearer x", f"If-Match: \"{digest}\""]  # fmt: skip
    for _ in range(number):
        lines = [line for line in (dice.choice(accepts), dice.choice(extras), dice.choice(extras)) if line]
        yield dice.choice(["GET", "GET", "GET", "HEAD", "HEAD"]), dice.choice(paths), lines


def conversations(requests, dice):
    """The requests as lists of (method, bytes), one for each connection: alone by HTTP/1.0 or 1.1, or several after each other."""
    requests = list(requests)
    while requests:
        how = dice.choice(["1.1", "1.0", "keep-alive", "keep-alive"])
        taken = [requests.pop() for _ in range(min(len(requests), dice.randrange(2, 12) if how == "keep-alive" else 1))]
        said = []
        for number, (method, path, lines) in enumerate(taken, 1):
            last = ["Connection: close"] if number == len(taken) else []
            head = [f"{method} {path} HTTP/{'1.0' if how == '1.0' else '1.1'}", "Host: cache", *lines, *last]
            said.append((method, "\r\n".join([*head, "", ""]).encode()))
        yield said


class Recorded:
    """A socket for http.client that keeps what is read from it."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.read = []

    def makefile(self, *_):
        recorded, file = self, self.socket.makefile("rb")

        class File(io.RawIOBase):
            def readable(self):
                return True

            def readinto(self, into):
                data = file.read1(len(into))
                recorded.read.append(data)
                into[: len(data)] = data
                return len(data)

            def close(self):
                file.close()
                super().close()

        return io.BufferedReader(File())


def converse(port, said):
    """The bytes of the answer to each; where one of them ends the connection, the next is sent on another."""
    connection, answers = None, []
    for method, text in said:
        connection = connection or Recorded(port)
        connection.read.clear()
        connection.socket.sendall(text)
        answer = http.client.HTTPResponse(connection, method=method)
        ends = True
        with contextlib.suppress(http.client.HTTPException, ConnectionError):  # the registry itself cuts some answers off
            answer.begin()
            answer.read()
            ends = answer.will_close
        answers.append(without_chance(b"".join(connection.read)))
        if ends:
            connection.socket.close()
            connection = None
    if connection:
        connection.socket.close()
    return answers


def without_chance(answer):
    """Without the date, and without the boundary that the registry makes up for an answer of several ranges."""
    answer = re.sub(rb"\r\n(date): [^\r]*", rb"\r\n\1:", answer, flags=re.IGNORECASE)
    for boundary in re.findall(rb"boundary=([0-9a-f]{60})", answer):
        answer = answer.replace(boundary, b"boundary")
    return answer


def by_http2(port, requests, folder):
    """The answers by HTTP/2, as curl writes them down: the requests one after the other on one connection."""
    lines = []
    for method, path, headers in requests:
        lines += ["next"] if lines else []
        lines += [f'url = "https://127.0.0.1:{port}{path}"', "path-as-is", "http2", "insecure", "include", "silent", "globoff"]
        lines += ["head"] if method == "HEAD" else [f'request = "{method}"'] if method != "GET" else []
        for line in "\r\n".join(headers).split("\r\n"):
            quoted = line.replace('"', '\\"')
            lines += [f'header = "{quoted}"'] if line else []
    config = folder / f"curl-{port}"
    config.write_text("\n".join(lines))
    done = subprocess.run([program("curl"), "--config", config], capture_output=True, timeout=300)
    return done.stdout


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(port of the registry, of the odd one, digest, blob, names): what the requests are about."""
    large = random.Random(1).randbytes(100_000).hex().encode()
    with Registry(tmp_path_factory.mktemp("registry"), "registry") as registry:
        push(registry, "test/app", "old", "zero")
        digest = push(registry, "test/app", "latest", "one", "index")
        blob = registry.put_blob("test/app", b"layer" * 10000)
        strange, answers = Upstream(), odd(large)
        strange.answer = lambda method, path: answers.get(path.split("?")[0].rsplit("/", 1)[1], (404, {}, b"{}"))
        yield registry, strange, digest, blob, sorted(answers)
        strange.stop()


@pytest.fixture(scope="module")
def recorded(tell):
    counts = {"requests": 0, "differing": 0}
    yield counts
    tell(f"{counts['requests']} mixed requests recorded with and without the module: {counts['differing']} answers differ")


def record(tmp_path, world, ports, side, shape, number):
    """The answers of one nginx on these two ports, in the order of the conversations, then those by HTTP/2."""
    registry, strange, digest, blob, names = world
    options = {key: SHAPES[shape].get(key, "") for key in ("location", "server")}
    options["server"] += f"location /v2/odd/ {{ proxy_pass http://127.0.0.1:{strange.port}; {options['location']} }}"
    observe = "keel on; keel_registry registry.example; " + SHAPES[shape].get("module", "")
    more = {"observe": observe} if side == "with" else {"module": None}
    http = f"""ssl_certificate {tmp_path}/tls.pem; ssl_certificate_key {tmp_path}/tls.pem;
        proxy_cache_path {tmp_path}/{side}-cache keys_zone=manifests:1m use_temp_path=off;
        server {{ listen 127.0.0.1:{ports[1]} ssl http2; {observe if side == "with" else ""}
                  {options["server"]} location /v2/ {{ proxy_pass http://registry; {options["location"]} }} }}"""
    with Cache(tmp_path / side, registry.port, http=http, workers=1, port=ports[0], **options, **more) as nginx:
        said = list(conversations(mix("test/app", digest, blob, names, number - number // 10, shape), random.Random(shape)))
        # What a cache answers depends on the order.
        with concurrent.futures.ThreadPoolExecutor(1 if CACHED in options["location"] else 4) as pool:
            answers = [answer for answers in pool.map(lambda one: converse(nginx.port, one), said) for answer in answers]
        answers.append(by_http2(ports[1], mix("test/app", digest, blob, names, number // 10, shape + "2"), tmp_path))
        assert not nginx.complaints()
        if side == "with":
            assert nginx.tag("test/app")["digest"] == digest  # the module was at work
            assert nginx.counters()["keel_tags"] > 3
    return [*(request for one in said for request in one), "by HTTP/2"], [*answers[:-1], without_chance(answers[-1])]


@pytest.mark.parametrize("shape", SHAPES)
def test_e3_every_answer_is_byte_identical(tmp_path, world, recorded, shape):
    number = REQUESTS // len(SHAPES)
    run(program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=cache", "-keyout", tmp_path / "tls.pem",
        "-out", tmp_path / "tls.crt")  # fmt: skip
    (tmp_path / "tls.pem").write_text((tmp_path / "tls.pem").read_text() + (tmp_path / "tls.crt").read_text())
    ports = free_port(), free_port()  # which redirects name
    said, with_it = record(tmp_path, world, ports, "with", shape, number)
    _, without = record(tmp_path, world, ports, "without", shape, number)
    differing = [one for one in zip(said, with_it, without) if one[1] != one[2]]
    recorded["requests"] += number
    recorded["differing"] += len(differing)
    statuses = collections.Counter(answer[9:12] for answer in without[:-1])
    assert statuses[b""] < number / 20 and len(statuses) > 8 and without[-1].count(b"HTTP/2 ") > number / 11, statuses
    for request, one, other in differing:
        assert one == other, request


def test_e3_what_is_no_request_is_answered_alike(tmp_path, world):
    registry = world[0]
    answers = []
    port = free_port()
    for side, more in (("with", {}), ("without", {"module": None})):
        with Cache(tmp_path / side, registry.port, port=port, **more) as nginx:
            answers.append([without_chance(raw(nginx.port, text)) for text in
                            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"NONSENSE\r\n\r\n", b"GET /v2/ HTTP/9.9\r\n\r\n",
                             b"GET http://a/v2/test/app/manifests/latest HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n",
                             b"POST /v2/test/app/manifests/latest HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}")])  # fmt: skip
            assert not nginx.complaints()
    assert answers[0] == answers[1]
