"""The configuration of conf/nginx: what is shipped is what these tests run."""

import concurrent.futures
import contextlib
import hashlib
import http.server
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import threading

import pytest
import yaml
from cache import Upstream, get, push

from lab.dns import NameServer
from lab.nginx import CONF, ROOT, Nginx, build
from lab.process import program
from lab.registry import ACCEPT, Registry
from lab.wait import wait_for

REGISTRIES = ["docker.io", "ghcr.io", "quay.io", "registry.k8s.io", "reg.kyverno.io"]
CONTAINERD = {"User-Agent": "containerd/1.6.20"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """{registry: (what it has upstream, the pull-through of it)}, each with another digest under library/app:latest."""
    folder = tmp_path_factory.mktemp("world")
    with contextlib.ExitStack() as stack:
        def start(name):
            origin = stack.enter_context(Registry(folder / name / "origin", "origin"))
            push(origin, "library/app", "latest", name)
            return origin, stack.enter_context(Registry(folder / name / "through", "through", proxy_of=origin.url))

        yield {name: start(name) for name in REGISTRIES}


@pytest.fixture
def shipped(world):
    """Starts nginx under the shipped files with these backends, of all five where none are named."""
    made = []
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ngx-keel-"))
    folder.chmod(0o711)  # for the user of the workers

    def make(backends=None, **options):
        backends = backends or {name: through.port for name, (_, through) in world.items()}
        made.append(Nginx(folder / f"nginx-{len(made)}", backends, **options))
        return made[-1].start().wait_ready(10)

    yield make
    for nginx in made:
        nginx.stop()
    logs = [(nginx.folder / "error.log").read_text() for nginx in made]
    shutil.rmtree(folder)
    for log in logs:
        assert not re.search(r"\[(alert|emerg|crit)\]", log), log


LAYOUTS = pytest.mark.parametrize("one_port", [False, True], ids=["five ports", "one port"])


# --- as they are ---


@pytest.mark.parametrize("file", ["nginx.conf", "nginx-one-port.conf"])
def test_shipped_file_passes_the_configuration_test_as_it_is(tmp_path, file):
    """Where it belongs, with the paths that it names: in a mount namespace, so that nothing of the machine is touched."""
    script = tmp_path / "check"
    script.write_text(f"""set -e
        cp -r {CONF} {build()}/ngx_keel_module.so {build()}/ngx_keel_publisher.so {tmp_path}
        for place in /etc/nginx /usr/share/nginx /var/cache /var/lib /var/log /run; do mount -t tmpfs none $place; done
        mkdir -p /usr/share/nginx/modules /usr/share/nginx/logs /var/cache/nginx /var/lib/nginx /var/log/nginx
        cp {tmp_path}/*.so /usr/share/nginx/modules
        cp -r {tmp_path}/nginx/. /etc/nginx
        mkdir -m 700 /etc/nginx/keel/secrets
        umask 077
        for secret in $(grep -rhoE '[^ =:]*[.]secret' /etc/nginx); do
            echo whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY= > $secret
        done
        {program("nginx")} -t -p /usr/share/nginx/ -c /etc/nginx/{file}
        ls -ld /var/lib/nginx/keel /var/cache/nginx/blobs""")
    rights = [] if os.getuid() == 0 else ["sudo", "-n"]
    done = subprocess.run([*rights, program("unshare"), "--mount", "--propagation", "private", "sh", script],
                          capture_output=True, text=True, timeout=60)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test is successful" in done.stderr
    assert not re.search(r"\[(error|crit|alert|emerg)\]", done.stderr), done.stderr
    assert re.search(r"^drwx------ .*www-data .*/var/lib/nginx/keel$", done.stdout, re.MULTILINE)


def test_shipped_files_agree():
    """Every registry of the map is observed everywhere, has a port of its own, and is known to keeld's example."""
    common = (CONF / "keel/http.conf").read_text()
    mapped = re.findall(r'^    (\S+) +"(\S+) +\S+";', common, re.MULTILINE)
    assert [ns for ns, _ in mapped] == ['""', *REGISTRIES]
    assert dict(mapped)['""'] == "docker.io"
    assert all(ns == name for ns, name in mapped[1:])
    for file in ("keel/http.conf", "nginx-one-port.conf"):
        assert re.findall(r"names=([^;]*);", (CONF / file).read_text()) == [",".join(REGISTRIES)]
    main = (CONF / "nginx.conf").read_text()
    assert re.findall(r"set \$cache_ns (\S+);", main) == re.findall(r"keel_registry (\S+);", main) == REGISTRIES
    assert len(set(re.findall(r"listen (\d+);", main))) == len(REGISTRIES)

    keeld = yaml.safe_load((ROOT / "conf/keeld.yaml").read_text())
    [cache] = keeld["caches"]
    assert f"keel_cache_name {cache['name']};" in common
    assert f"listen {cache['lookup'].removeprefix('http://')};" in common
    assert cache["api"].startswith("http://") and cache["api"].endswith("/keel")
    assert f"listen {cache['api'].removeprefix('http://').removesuffix('/keel')};" in common
    assert [name for name, how in keeld["registries"].items() if how.get("through") == cache["name"]] == REGISTRIES
    events = next(listener["at"] for listener in keeld["listen"] if listener["at"].startswith("127."))
    assert f"keel_companion http://{events}/v1/events " in common


# --- five registries ---


@LAYOUTS
def test_five_registries_are_served_and_observed_by_name(shipped, world, one_port):
    nginx = shipped(one_port=one_port)
    for name, (origin, _) in world.items():
        digest = origin.digest("library/app", "latest")
        asked = nginx.through(name).manifest("library/app", "latest", "HEAD", f"?ns={name}", headers=CONTAINERD)
        assert (asked.status, asked.digest) == (200, digest)
        lookup = get(nginx.lookup_port, f"/v2/library/app/manifests/{digest}?ns={name}", headers=[("Accept", ACCEPT)])
        assert (lookup[0], lookup[1]["Docker-Content-Digest"]) == (200, digest)
    seen = {tag["tag"]: (tag["digest"], tag["asked_by"]) for tag in nginx.tags()}
    assert seen == {f"{name}/library/app:latest": (origin.digest("library/app", "latest"), "kubelet")
                    for name, (origin, _) in world.items()}  # fmt: skip
    assert len({digest for digest, _ in seen.values()}) == len(REGISTRIES)


@LAYOUTS
def test_keeld_looks_up_on_a_port_of_its_own(shipped, world, one_port):
    nginx = shipped(one_port=one_port)
    origin, _ = world["quay.io"]
    answer = get(nginx.lookup_port, "/v2/library/app/manifests/latest?ns=quay.io", "HEAD",
                 [("Accept", ACCEPT), ("User-Agent", "keeld/0")])  # fmt: skip
    assert answer[1]["Docker-Content-Digest"] == origin.digest("library/app", "latest")
    [tag] = nginx.tags()
    assert (tag["tag"], tag["asked_by"]) == ("quay.io/library/app:latest", "keeld")
    assert get(nginx.lookup_port, "/v2/library/app/manifests/latest?ns=forge.example")[0] == 404


def test_registry_that_is_not_mapped_is_404_and_not_asked_anywhere(shipped, world):
    nginx = shipped(one_port=True)
    for query in ("?ns=forge.example", "?ns=docker.io.evil.example", "?ns=docker%2Eio", "?ns=docker.io%20x"):
        answer = nginx.through("docker.io").manifest("library/app", "latest", "GET", query, headers=CONTAINERD)
        assert answer.status == 404 and answer.json["errors"][0]["code"] == "NAME_UNKNOWN"
        assert nginx.through("docker.io").manifest("library/app", "latest", "HEAD", query).status == 404
    assert nginx.tags() == []
    [first, *_] = wait_for("all lines", lambda: logged(nginx, "/v2/library/app/manifests/latest", 8))
    assert '" - - ' in first  # no upstream


def test_request_without_ns_goes_to_the_default(shipped, world):
    nginx = shipped(one_port=True)
    digest = world["docker.io"][0].digest("library/app", "latest")
    for query in ("", "?ns=", "?other=1"):
        assert nginx.through("docker.io").manifest("library/app", "latest", "HEAD", query).digest == digest
    assert [tag["tag"] for tag in nginx.tags()] == ["docker.io/library/app:latest"]


def test_five_ports_go_by_the_port(shipped, world):
    """What another ?ns= says there is no way round it."""
    nginx = shipped()
    answer = nginx.through("ghcr.io").manifest("library/app", "latest", "HEAD", "?ns=quay.io")
    assert answer.digest == world["ghcr.io"][0].digest("library/app", "latest")
    assert [tag["tag"] for tag in nginx.tags()] == ["ghcr.io/library/app:latest"]


@LAYOUTS
def test_health_checks_are_not_observed(shipped, one_port):
    nginx = shipped(one_port=one_port)
    before = nginx.api("metrics")[1]
    for name in REGISTRIES:
        for path in ("/healthz", f"/healthz?ns={name}"):
            assert [nginx.through(name).request(method, path)[0] for method in ("GET", "HEAD")] == [200, 200]
    assert nginx.through("docker.io").request("GET", "/v2/last")[0] == 404
    wait_for("what is logged", lambda: logged(nginx, "/v2/last", 1))
    assert "healthz" not in (nginx.folder / "access.log").read_text()
    counted = re.findall(r"^keel_(?:observ|uncount)\S* \d+$", before, re.MULTILINE)
    assert counted and re.findall(r"^keel_(?:observ|uncount)\S* \d+$", nginx.api("metrics")[1], re.MULTILINE) == counted
    assert nginx.tags() == []


# --- names ---


def test_backend_that_moves_is_followed(shipped, world, tmp_path):
    """As a container that is made anew: the old address may be another registry's by then."""
    origin, through = world["docker.io"]
    with NameServer({"registry-docker-io": "127.0.0.1"}) as names:
        nginx = shipped({"docker.io": f"registry-docker-io:{through.port}"}, resolver=f"127.0.0.1:{names.port}")
        assert nginx.through("docker.io").digest("library/app", "latest") == origin.digest("library/app", "latest")
        other, _ = world["ghcr.io"]
        with Registry(tmp_path / "moved", "moved", proxy_of=other.url, at=("127.0.0.2", through.port)):
            names.addresses["registry-docker-io"] = "127.0.0.2"
            digest = other.digest("library/app", "latest")
            wait_for("the new address", lambda: nginx.through("docker.io").digest("library/app", "latest") == digest, 15)
        assert nginx.tag("docker.io/library/app:latest")["digest"] == digest


# --- blobs ---


@pytest.fixture
def blobs(shipped):
    """nginx before an upstream that answers what it is told to; path(data) is where a blob is."""
    upstream = Upstream()
    upstream.answer = lambda method, path: (200, {}, b"")
    nginx = shipped({"docker.io": upstream.port})
    upstream.asked.clear()
    yield nginx, upstream
    upstream.stop()


def blob_path(data):
    return f"/v2/library/app/blobs/sha256:{hashlib.sha256(data).hexdigest()}"


def kept(nginx):
    """The files of the cache, without those that are still being written."""
    return [path for path in (nginx.folder / "blobs").rglob("*") if path.is_file() and "." not in path.name]


def logged(nginx, path, number):
    """The lines of the access log with that path, once there are so many: nginx writes one when the answer is sent."""
    lines = [line for line in (nginx.folder / "access.log").read_text().splitlines() if path in line]
    return lines if len(lines) == number else None


# What docker-registry says with a blob: any status would be kept for a year.
FOR_EVER = {"Content-Type": "application/octet-stream", "Cache-Control": "max-age=31536000"}


def ask(nginx, path, method="GET", headers=()):
    status, got, body = get(nginx.nodes["docker.io"], path, method, list(headers))
    return status, got, body


@LAYOUTS
def test_blobs_are_kept_from_the_second_request_on(shipped, world, one_port):
    nginx = shipped(one_port=one_port)
    for name, (origin, _) in world.items():
        data = f"layer of {name} ".encode() * 10000
        digest = origin.put_blob("library/app", data)
        path = f"/v2/library/app/blobs/{digest}?ns={name}"
        port, count = nginx.nodes[name], len(kept(nginx))
        assert get(port, path)[2] == data and len(kept(nginx)) == count

        def served():
            assert get(port, path)[2] == data
            return '- HIT ' in (nginx.folder / "access.log").read_text().split(path)[-1]

        wait_for("the kept blob served", served, interval=0.1)
        assert len(kept(nginx)) == count + 1


def test_manifests_by_digest_and_everything_else_are_never_kept(shipped, world):
    nginx = shipped()
    origin, _ = world["docker.io"]
    digest = origin.digest("library/app", "latest")
    for path in (f"manifests/{digest}", "manifests/latest", "tags/list", f"blobs/sha256:{'0' * 64}", "blobs/uploads/"):
        for _ in range(4):
            get(nginx.nodes["docker.io"], f"/v2/library/app/{path}")
    assert kept(nginx) == []


def test_parts_of_blobs_are_never_kept(blobs):
    """Neither where the client asks for one nor where the registry answers with one unasked."""
    nginx, upstream = blobs
    data = os.urandom(50000)
    upstream.answer = lambda method, path: (206, {**FOR_EVER, "Content-Range": "bytes 0-99/50000"}, data[:100])
    for _ in range(4):
        assert ask(nginx, blob_path(data), headers=[("Range", "bytes=0-99")])[::2] == (206, data[:100])
    assert kept(nginx) == []
    upstream.answer = lambda method, path: (200, {**FOR_EVER, "Accept-Ranges": "bytes"}, data)
    for _ in range(4):
        assert ask(nginx, blob_path(data))[::2] == (200, data)
    wait_for("the blob kept", lambda: len(kept(nginx)) == 1)
    # From the kept one a part is cut right.
    asked = len(upstream.asked)
    assert ask(nginx, blob_path(data), headers=[("Range", "bytes=100-199")])[::2] == (206, data[100:200])
    assert len(upstream.asked) == asked


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
def test_errors_are_never_kept(blobs, status):
    nginx, upstream = blobs
    data = os.urandom(1000)
    upstream.answer = lambda method, path: (status, FOR_EVER, b"{}")
    for _ in range(4):
        assert ask(nginx, blob_path(data))[0] == status
    assert kept(nginx) == []
    upstream.answer = lambda method, path: (200, FOR_EVER, data)
    assert ask(nginx, blob_path(data))[::2] == (200, data)


def test_head_of_a_blob_fetches_no_layer(blobs):
    nginx, upstream = blobs
    data = os.urandom(1000)
    upstream.answer = lambda method, path: (200, FOR_EVER, data)
    for _ in range(4):
        status, headers, body = ask(nginx, blob_path(data), "HEAD")
        assert (status, headers["Content-Length"], body) == (200, "1000", b"")
    assert {method for method, _, _ in upstream.asked} == {"HEAD"}
    assert ask(nginx, blob_path(data))[::2] == (200, data)


class Cutting:
    """A registry whose answers end before they should: `sent` bytes of `data`, with or without the length of all."""

    def __init__(self, data, told):
        cutting = self
        self.sent = 10

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.send_response(200)
                if self.path == "/v2/":
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                for name, value in FOR_EVER.items():
                    self.send_header(name, value)
                if told == "length":
                    self.send_header("Content-Length", str(len(data)))
                elif told == "chunked":
                    self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                part = data[: cutting.sent]
                self.wfile.write(b"%x\r\n" % len(data) + part if told == "chunked" else part)
                if told == "chunked" and len(part) == len(data):
                    self.wfile.write(b"\r\n0\r\n\r\n")
                self.close_connection = True

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


def fetch(nginx, path):
    """The body, or as much of it as came."""
    done = subprocess.run([program("curl"), "-s", f"{nginx.url('docker.io')}{path}"], capture_output=True, timeout=30)
    return done.stdout


@pytest.mark.parametrize("told", ["length", "chunked", "nothing"])
@pytest.mark.parametrize("sent", [0, 10, 20000])
def test_bodies_that_were_cut_are_not_kept(shipped, told, sent):
    data = os.urandom(30000)
    upstream = Cutting(data, told)
    try:
        nginx = shipped({"docker.io": upstream.port})
        upstream.sent = sent
        for _ in range(4):
            assert fetch(nginx, blob_path(data)) == data[:sent]
        assert kept(nginx) == []
        upstream.sent = len(data)
        for _ in range(3):
            assert fetch(nginx, blob_path(data)) == data
    finally:
        upstream.stop()


def test_many_nodes_at_once_fetch_a_blob_twice_at_most(blobs):
    """Once until it is worth keeping, once to keep it."""
    nginx, upstream = blobs
    data = os.urandom(200000)
    upstream.answer = lambda method, path: (200, FOR_EVER, data)
    assert ask(nginx, blob_path(data))[0] == 200
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for status, _, body in pool.map(lambda _: ask(nginx, blob_path(data)), range(32)):
            assert (status, body) == (200, data)
    assert len(upstream.asked) == 2


