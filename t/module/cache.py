"""What the module's tests run: an nginx of any configuration, a receiver of events, an upstream that misbehaves."""

import base64
import contextlib
import hashlib
import hmac
import http.client
import http.server
import json
import os
import pathlib
import re
import signal
import socket
import threading
import time
import uuid

from lab.nginx import build
from lab.ports import free_port
from lab.process import Server, program
from lab.registry import OCI_INDEX, OCI_MANIFEST, RegistryClient
from lab.wait import wait_for

SECRET = b"module tests sign with this one."
OTHER_SECRET = b"and this one is another secret.."
REGISTRY = "registry.example"


def secret_line(key=SECRET):
    return "whsec_" + base64.b64encode(key).decode() + "\n"


def sign(method, target, body=b"", key=SECRET, message=None, at=None):
    """The headers of a signed request to keel_api, written from its specification and not from our code."""
    message, at = message or f"msg_{uuid.uuid4().hex}", int(time.time() if at is None else at)
    base = f"{message}.{at}.{method}.{target}.{hashlib.sha256(body).hexdigest()}".encode()
    signature = base64.b64encode(hmac.new(key, base, hashlib.sha256).digest()).decode()
    return {"webhook-id": message, "webhook-timestamp": str(at), "webhook-signature": f"v1,{signature}"}


def digest_of(text):
    return "sha256:" + hashlib.sha256(str(text).encode()).hexdigest()


def push(registry, repository, tag, content, kind="image"):
    """Moves the tag to a manifest that is `content`'s own, and returns its digest. Nothing can run it."""
    config = registry.put_blob(repository, b"{}")
    image = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2},
        "layers": [],
        "annotations": {"content": str(content)},
    }
    if kind == "image":
        return registry.put_manifest(repository, tag, image)
    digest = registry.put_manifest(repository, None, image)
    size = len(json.dumps(image).encode())
    entry = {"mediaType": OCI_MANIFEST, "digest": digest, "size": size,
             "platform": {"os": "linux", "architecture": "amd64"}}  # fmt: skip
    return registry.put_manifest(repository, tag, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]})


class Cache(Server):
    """nginx with the module under a configuration that the test gives in pieces.

    upstream: port that `location /v2/` proxies to. zone: NAME:SIZE, empty for none. observe: the lines for the first server.
    http, server, location: more lines there. companion: URL for events. state: DIR or "off", its own directory where nothing is said. api: parameters of keel_api. socket: path of a
    unix socket that keel_api answers on, too. module: None leaves all of ours out.
    """

    name = "nginx"
    stop_signal = signal.SIGQUIT
    stop_deadline = 5.0

    def __init__(self, folder, upstream, companion=None, module=True, zone="keel:1m",
                 observe=f"keel on; keel_registry {REGISTRY};", http="", server="", location="", main="",
                 workers=2, secret=SECRET, state=None, api="", socket=None, port=None):  # fmt: skip
        super().__init__(folder)
        self.folder.chmod(0o755)
        self.module = build() / "ngx_keel_module.so" if module is True else module
        self.port, self.api_port = port or free_port(), free_port()
        self.upstream, self.companion, self.zone, self.observe = upstream, companion, zone, observe
        self.http, self.server, self.location, self.main, self.workers = http, server, location, main, workers
        self.config = self.folder / "nginx.conf"
        self.secret_file = self.folder / "events.secret"
        self.secret_file.write_text(secret_line(secret))
        self.secret_file.chmod(0o600)
        self.state = state or self.folder / "state"
        self.api_parameters, self.socket = api, socket
        self.allowed = []  # patterns of [alert] lines that the test brings about
        self.write()

    def write(self):
        keel = bool(self.module)
        companion = f"keel_companion {self.companion} secret={self.secret_file};" if self.companion else ""
        zone = f"keel_zone zone={self.zone} state={self.state};" if self.zone else ""
        api = f"keel_api {self.api_parameters}".strip() + ";"
        temporary = "".join(
            f"{kind}_temp_path {self.folder}/temp-{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        fields = "$keel_registry $keel_repository $keel_tag $keel_digest $keel_previous_digest $keel_change"
        self.config.write_text(f"""
            {'user root;' if os.getuid() == 0 else ''}
            {f'load_module {self.module};' if keel else ''}
            daemon off; worker_processes {self.workers};
            error_log {self.folder}/error.log info; pid {self.folder}/nginx.pid;
            {self.main}
            events {{ worker_connections 512; }}
            http {{
                {temporary}
                {zone + 'keel_cache_name cache-t;' if keel else ''}
                {companion if keel else ''}
                {f'log_format keel "$request_method $uri|{fields}";' if keel else ''}
                {f'access_log {self.folder}/access.log keel;' if keel else 'access_log off;'}
                proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host;
                client_max_body_size 0;
                upstream registry {{ server 127.0.0.1:{self.upstream}; keepalive 8; }}
                {self.http}
                server {{
                    listen 127.0.0.1:{self.port};
                    {self.observe if keel else ''}
                    {self.server}
                    location /v2/ {{ proxy_pass http://registry; {self.location} }}
                }}
                server {{
                    listen 127.0.0.1:{self.api_port};
                    {f'listen unix:{self.socket};' if self.socket else ''}
                    location /keel/ {{ {api if keel else 'return 404;'} access_log off; }}
                    location = /up {{ return 204; access_log off; }}
                }}
            }}
        """)

    def command(self):
        return [program("nginx"), "-p", f"{self.folder}/", "-e", f"{self.folder}/error.log", "-c", self.config]

    def ready(self):
        return RegistryClient(self.api_port).request("GET", "/up")[0] == 204

    # --- asking ---

    @property
    def client(self):
        return RegistryClient(self.port)

    def pull(self, repository="app", tag="latest", method="HEAD", agent="containerd/1.6.20~ds1", **more):
        """Asks as containerd does; the answer."""
        headers = {"User-Agent": agent, **more.pop("headers", {})}
        return self.client.manifest(repository, tag, method, headers=headers, **more)

    def api(self, path, method="GET"):
        status, headers, body = RegistryClient(self.api_port).request(method, f"/keel/{path}")
        return status, json.loads(body) if body and "json" in headers.get("Content-Type", "") else body.decode()

    def call(self, method, path, body=None, headers=None, key=SECRET, revision=None, socket=None):
        """A request to keel_api, signed with the key (None: not); (status, object, headers). socket: path to go through."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        given = {} if revision is None else {"If-Match": str(revision)}
        given |= sign(method, f"/keel/{path}", data, key) if key else {}
        client = UnixConnection(socket) if socket else http.client.HTTPConnection("127.0.0.1", self.api_port, timeout=30)
        try:
            client.request(method, f"/keel/{path}", data, given | (headers or {}))
            answer = client.getresponse()
            text = answer.read()
            kind = answer.headers.get("Content-Type", "")
            return answer.status, json.loads(text) if "json" in kind else text.decode(), answer.headers
        finally:
            client.close()

    def holds(self):
        """(revision, {tag: hold}) as keel_api shows them."""
        status, page = self.api("holds")
        assert status == 200
        return int(page["revision"]), {hold["tag"]: hold for hold in page["holds"]}

    def hold(self, tag, digest, until=None, **fields):
        """Sets a hold; as it was answered."""
        return self.change("PUT", tag, {"digest": digest, "reason": "test", "until": until, **fields})["hold"]

    def release(self, tag):
        self.change("DELETE", tag)

    def change(self, method, tag, body=None):
        """Reads the revision and writes, again where somebody else has written meanwhile."""
        for _ in range(10):
            status, answer, _ = self.call(method, f"holds/{tag}", body, revision=self.holds()[0])
            if status != 412:
                break
        assert status == 200, answer
        return answer

    def tags(self):
        """The whole table by its full names."""
        found, query = {}, ""
        while True:
            status, page = self.api(f"tags?limit=500{query}")
            assert status == 200
            found.update({tag["tag"]: tag for tag in page["tags"]})
            if page["next"] is None:
                return found
            query = f"&since={page['next']}&epoch={page['epoch']}"

    def tag(self, repository="app", name="latest", registry=REGISTRY):
        return self.tags().get(f"{registry}/{repository}:{name}")

    def counters(self):
        """The metrics: {name or name{labels}: value}."""
        status, text = self.api("metrics")
        assert status == 200
        return {line.rsplit(" ", 1)[0]: int(line.rsplit(" ", 1)[1])
                for line in text.splitlines() if not line.startswith("#")}  # fmt: skip

    def uncounted(self):
        """Why answers did not count: {reason: number}, without zeros."""
        found = {}
        for name, value in self.counters().items():
            match = re.fullmatch(r'keel_uncounted_total\{reason="(.*)"\}', name)
            if match and value:
                found[match[1]] = value
        return found

    def logged(self, lines=0):
        """The access log: [(request, registry, repository, tag, digest, previous, change)].

        lines: how many there must be at least; nginx writes one when the client has its answer already.
        """
        log = self.folder / "access.log"
        wait_for(f"{lines} lines of the access log", lambda: len(log.read_text().splitlines()) >= lines)
        rows = []
        for line in log.read_text().splitlines():
            request, fields = line.split("|")
            rows.append((request, *fields.split(" ")))
        return rows

    # --- processes ---

    def children(self):
        """{pid: title} of workers and helpers."""
        found = {}
        for path in pathlib.Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            try:
                title = pathlib.Path(f"/proc/{path}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except OSError:
                continue
            found[int(path)] = title
        return found

    def workers_now(self):
        return sorted(pid for pid, title in self.children().items() if title == "nginx: worker process")

    def helper(self):
        """The pid of the process that publishes, once it is there."""
        def one():
            found = [pid for pid, title in self.children().items() if title == "nginx: cache manager process"]
            return found[0] if len(found) == 1 else None

        return wait_for("helper process", one)

    @contextlib.contextmanager
    def stopped_helper(self):
        """The helper's pid; it is stopped, holding no lock that workers would wait for, until the end of this."""
        helper = self.helper()

        def stopped():
            os.kill(helper, signal.SIGSTOP)
            wait_for("a stopped helper", lambda: "T (stopped)" in pathlib.Path(f"/proc/{helper}/status").read_text())
            try:
                return get(self.api_port, "/keel/status", timeout=1)[0] == 200
            except TimeoutError:
                os.kill(helper, signal.SIGCONT)

        try:
            wait_for("a helper stopped without a lock", stopped)
            yield helper
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(helper, signal.SIGCONT)

    def reload(self):
        """Reloads and waits until the new workers alone are there."""
        before = set(self.children())
        self.process.send_signal(signal.SIGHUP)
        wait_for("reload", lambda: self.children() and not before & set(self.children()))
        wait_for("nginx answers", self.ready)

    # --- the log ---

    def errors(self):
        log = self.folder / "error.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def complaints(self):
        """Lines that no test may leave behind."""
        lines = [line for line in self.errors().splitlines() if re.search(r"\[(alert|emerg|crit)\]", line)]
        return [line for line in lines if not any(re.search(pattern, line) for pattern in self.allowed)]

    def tail(self, lines=30):
        return "\n".join([super().tail(5), *self.errors().splitlines()[-lines:]])


class UnixConnection(http.client.HTTPConnection):
    """HTTP on a unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=30)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Receiver:
    """A real HTTP server that takes batches as keeld does: signature first, then the content.

    behaviour: what to answer, a status or a callable (batch) -> status; "hang" keeps the connection open.
    """

    def __init__(self, secret=SECRET, unix=None, host="127.0.0.1"):
        self.secret, self.behaviour, self.unix, self.host = secret, 204, unix, host
        self.lock = threading.Lock()
        self.attempts = []  # (monotonic time, headers, events, status) of every request
        self.headers = {}  # to add to answers
        self.released = threading.Event()
        self.server = None
        self.port = None

    def start(self):
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = not receiver.unix

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = receiver.judge(self.path, self.headers, body)
                if status == "hang":
                    receiver.released.wait(60)
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def address_string(self):
                return "client"

            def log_message(self, *args):
                pass

        class Tcp(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, request, address):
                pass  # the other side was killed: that is what these tests do

        class Unix(Tcp):
            address_family = socket.AF_UNIX

            def server_bind(self):
                self.socket.bind(self.server_address)
                self.server_name, self.server_port = "localhost", 0

        if self.unix:
            self.server = Unix(str(self.unix), Handler)
        else:
            self.server = Tcp((self.host, self.port or 0), Handler)
            self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def stop(self):
        if self.server:
            self.released.set()
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    @property
    def url(self):
        return f"http://{self.host}:{self.port}/v1/events"

    def judge(self, path, headers, body):
        now = time.monotonic()
        events = json.loads(body)
        if not self.signed(headers, body):
            status = 401
        else:
            status = self.behaviour(events) if callable(self.behaviour) else self.behaviour
        with self.lock:
            self.attempts.append((now, path, dict(headers), len(body), events, status))
        return status

    def signed(self, headers, body):
        """Standard Webhooks, written from its specification and not from our code."""
        base = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        good = "v1," + base64.b64encode(hmac.new(self.secret, base, hashlib.sha256).digest()).decode()
        fresh = abs(time.time() - int(headers["webhook-timestamp"])) < 300
        return fresh and any(hmac.compare_digest(good, given) for given in headers["webhook-signature"].split(" "))

    def batches(self):
        """What was taken: lists of events."""
        with self.lock:
            return [events for _, _, _, _, events, status in self.attempts if status != "hang" and 200 <= status < 300]

    def events(self):
        return [event for batch in self.batches() for event in batch]

    def state(self):
        """What a receiver knows that keeps the newest of each tag: {tag: data}."""
        newest = {}
        for event in self.events():
            data = event["data"]
            known = newest.get(data["tag"])
            if not known or known["epoch"] != data["epoch"] or int(known["seq"]) < int(data["seq"]):
                newest[data["tag"]] = data
        return newest

    def wait(self, tag, digest, deadline=15):
        """Until it knows that the tag is at the digest; the event's data."""
        def known():
            data = self.state().get(tag)
            return data if data and data["digest"] == digest else None

        return wait_for(f"{tag} at {digest} at the receiver", known, deadline, 0.005)


class Upstream:
    """An upstream for what a real registry cannot be made to answer. answer: (method, path) -> (status, headers, body).

    A body with a Transfer-Encoding is encoded already.
    """

    def __init__(self):
        upstream = self
        self.answer = lambda method, path: (404, {}, b"")
        self.asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self):
                if "Content-Length" in self.headers:
                    self.rfile.read(int(self.headers["Content-Length"]))
                upstream.asked.append((self.command, self.path, dict(self.headers)))
                status, headers, body = upstream.answer(self.command, self.path)
                self.send_response(status)
                for name, value in headers if isinstance(headers, list) else headers.items():
                    self.send_header(name, value)
                if status != 304 and "Transfer-Encoding" not in dict(headers):
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD" and status != 304:
                    self.wfile.write(body)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def tags(self, **at):
        """Answers every tag request with the digest of at[tag], an OCI image."""
        def answer(method, path):
            digest = at.get(path.split("?")[0].rsplit("/", 1)[1])
            if digest is None:
                return 404, {}, b"{}"
            return 200, {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": digest}, b"{}"

        self.answer = answer

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


def raw(port, request):
    """The bytes of the whole answer to the bytes of a request (which must ask to close)."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(request)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
        return b"".join(parts)


def get(port, path, method="GET", headers=None, timeout=10):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.putrequest(method, path, skip_host=False, skip_accept_encoding=True)
        for name, value in headers or []:
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()
