"""A registry with one fault to each path prefix, for what no real one can be made to do. It counts what it is asked.

/NAME/v2/REPOSITORY/… is answered by the fault NAME; each request is noted before it is answered.
"""

import collections
import dataclasses
import email.utils
import hashlib
import http.server
import json
import ssl
import threading
import time

from .process import run
from .registry import OCI_INDEX

MANIFEST = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()
DIGEST = "sha256:" + hashlib.sha256(MANIFEST).hexdigest()
OTHER = "sha256:" + "0" * 64
RETRY_AFTER = 4  # seconds


@dataclasses.dataclass
class Asked:
    """One request: when it came, when its answer was on its way, and what of it was sent."""

    at: float
    method: str
    path: str  # below /v2/
    headers: dict
    answered: float = 0
    status: int = 0
    sent: int = 0  # bytes of the body


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "faulty", ""

    def log_message(self, *_):
        pass

    def version_string(self):
        return "faulty"

    def do_GET(self):
        name, _, rest = self.path.lstrip("/").partition("/")
        path = rest.removeprefix("v2/")
        self.note = Asked(time.monotonic(), self.command, path, dict(self.headers))
        with self.server.lock:
            self.server.asked[name].append(self.note)
        try:
            self.server.faults[name](self, path)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            self.close_connection = True

    do_HEAD = do_POST = do_GET

    def answer(self, status, headers=None, body=b"", length=None):
        self.note.status = status
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if status != 304:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.note.answered = time.monotonic()
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
            self.wfile.flush()
            self.note.sent = len(body)

    def manifest(self, **headers):
        """The right answer."""
        self.answer(200, {"Content-Type": OCI_INDEX, "Docker-Content-Digest": DIGEST, **headers}, MANIFEST)

    @property
    def url(self):
        return f"http://{self.headers['Host']}"


# --- the faults: each gets the handler and the path below /v2/ ------------------------------------------------


def fine(h, path):
    h.manifest()


def status(code, **headers):
    def fault(h, path):
        h.answer(code, {key.replace("_", "-"): value for key, value in headers.items()}, b'{"errors":[]}')

    return fault


def no_head(code):
    def fault(h, path):
        return h.answer(code) if h.command == "HEAD" else h.manifest()

    return fault


def no_digest(h, path):
    if h.headers.get("If-None-Match") == '"one"':
        return h.answer(304)
    h.answer(200, {"Content-Type": OCI_INDEX, "ETag": '"one"'}, MANIFEST)


def mismatch(h, path):
    if h.command == "HEAD":
        return h.answer(405)
    h.answer(200, {"Content-Type": OCI_INDEX, "Docker-Content-Digest": OTHER}, MANIFEST)


def redirect_loop(h, path):
    h.answer(307, {"Location": h.path})


def redirect_to_file(h, path):
    h.answer(307, {"Location": "file:///etc/hostname"})


def web_page(h, path):
    h.answer(200, {"Content-Type": "text/html", "Docker-Content-Digest": DIGEST}, b"<p>Please log in")


def legacy(h, path):
    kind = "application/vnd.docker.distribution.manifest.v1+prettyjws"
    h.answer(200, {"Content-Type": kind, "Docker-Content-Digest": OTHER}, b"{}")


def truncated(h, path):
    if h.command == "HEAD":
        return h.answer(405)
    h.answer(200, {"Content-Type": OCI_INDEX}, MANIFEST[:20], length=len(MANIFEST))
    h.close_connection = True


def slow_drip(h, path):
    """Never still for long, and never done."""
    h.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(1000):
        h.wfile.write(b"X-%d: drip\r\n" % number)
        h.wfile.flush()
        h.note.sent += 1
        if h.server.closing.wait(0.5):
            break
    h.close_connection = True


def huge(h, path):
    """A manifest that does not end."""
    if h.command == "HEAD":
        return h.answer(405)
    h.answer(200, {"Content-Type": OCI_INDEX}, length=1 << 40)
    for _ in range(4096):
        h.wfile.write(b" " * 65536)
        h.note.sent += 65536
    h.close_connection = True


def as_date(code):
    def fault(h, path):
        # send_response() adds Date, of the same second or the next: count from the answer's own.
        now = int(time.time())
        h.date_time_string = lambda _=None: email.utils.formatdate(now, usegmt=True)
        h.answer(code, {"Retry-After": email.utils.formatdate(now + RETRY_AFTER, usegmt=True)})

    return fault


def few_left(h, path):
    """Docker Hub, where pulls are counted and HEADs are not; GET would be a pull."""
    headers = {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "7;w=21600", "Docker-RateLimit-Source": "192.0.2.7"}
    pull = h.command == "GET" and "/manifests/" in path
    return h.answer(429, headers) if pull else h.manifest(**headers)


def tokens(grant, accept=True, scope="repository:team/app:pull", realm=None, error=""):
    """Asks for a token of its own; `grant` is what the token's server says. accept: whether the token helps."""

    def fault(h, path):
        if path.startswith("token"):
            return h.answer(*grant[:1], {"Content-Type": "application/json"}, json.dumps(grant[1]).encode())
        if accept and h.headers.get("Authorization") == "Bearer good":
            return h.manifest()
        name = h.path.split("/")[1]
        challenge = f'Bearer realm="{realm or f"{h.url}/{name}/v2/token"}",service="faulty",scope="{scope}"'
        why = error if "Authorization" in h.headers else ""
        h.answer(401, {"WWW-Authenticate": challenge + why}, b'{"errors":[{"code":"UNAUTHORIZED"}]}')

    return fault


def listed(pages):
    """A tag that is fine, in a repository whose list is `pages`(handler, number of the page)."""

    def fault(h, path):
        if "/tags/list" not in path:
            return h.manifest()
        number = int(path.partition("page=")[2].partition("&")[0] or 0)
        return pages(h, number)

    return fault


def page(h, names, following=None):
    link = {"Link": f'<{following}>; rel="next"'} if following else {}
    h.answer(200, {"Content-Type": "application/json", **link}, json.dumps({"name": "team/app", "tags": names}).encode())


ENDLESS = "/v2/team/app/tags/list?n=1000&page={}"
FAULTS = {
    "fine": fine,
    "not-found": status(404),
    "forbidden": status(403),
    "head-405": no_head(405),
    "head-501": no_head(501),
    "head-404": no_head(404),
    "no-digest": no_digest,
    "mismatch": mismatch,
    "redirect-loop": redirect_loop,
    "redirect-file": redirect_to_file,
    "web-page": web_page,
    "legacy": legacy,
    "truncated": truncated,
    "slow-drip": slow_drip,
    "huge": huge,
    "error-500": status(500),
    "error-502": status(502),
    "busy-seconds": status(429, Retry_After=str(RETRY_AFTER)),
    "busy-date": as_date(429),
    "busy-unsaid": status(429),
    "down-seconds": status(503, Retry_After=str(RETRY_AFTER)),
    "few-left": few_left,
    "token-fine": tokens((200, {"token": "good", "expires_in": 300})),
    "token-without-expiry": tokens((200, {"token": "good"})),
    "token-refused": tokens((200, {"token": "good", "expires_in": 300}), accept=False),
    "token-scope": tokens((200, {"token": "good", "expires_in": 300}), accept=False, scope="repository:team/other:pull",
                          error=',error="insufficient_scope"'),
    "token-unwanted": tokens((200, {"token": "good", "expires_in": 300}), accept=False),
    "token-empty": tokens((200, {"expires_in": 300})),
    "token-server-fails": tokens((500, {})),
    "token-realm": tokens((200, {}), realm="ftp://127.0.0.1/token"),
    "list-fine": listed(lambda h, n: page(h, ["1.0", "1.1", "a b"])),
    "list-endless": listed(lambda h, n: page(h, [f"0.0.{n}"], ENDLESS.format(n + 1))),
    "list-loop": listed(lambda h, n: page(h, ["1.0", "1.1"], ENDLESS.format((n + 1) % 3))),
    "list-elsewhere": listed(lambda h, n: page(h, ["1.0"], "http://192.0.2.1/v2/team/app/tags/list?page=1")),
    "list-404": listed(lambda h, n: h.answer(404)),
    "list-405": listed(lambda h, n: h.answer(405)),
    "list-page": listed(lambda h, n: h.answer(200, {}, b"<html>")),
}


class FaultyRegistry:
    """Serves until stop(). `asked`: {name: [Asked]}, of every path prefix.

    faults: more than FAULTS, or others. tls: a folder for a certificate that nobody vouches for.
    """

    def __init__(self, faults=None, tls=None):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *_: None  # clients that hang up, or do not trust us
        self.server.daemon_threads = True
        self.server.faults = {**FAULTS, **(faults or {})}
        self.server.asked = self.asked = collections.defaultdict(list)
        self.server.lock = threading.Lock()
        self.server.closing = threading.Event()
        self.scheme = "http"
        if tls:
            tls.mkdir(parents=True, exist_ok=True)
            run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=faulty",
                "-keyout", tls / "key", "-out", tls / "crt")  # fmt: skip
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls / "crt", tls / "key")
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
            self.scheme = "https"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()

    @property
    def port(self):
        return self.server.server_address[1]

    def url(self, name):
        return f"{self.scheme}://127.0.0.1:{self.port}/{name}"

    def stop(self):
        self.server.closing.set()
        self.server.shutdown()
        self.server.server_close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
