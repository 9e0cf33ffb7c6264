"""Registries that want to know who asks, and the server that gives tokens for them. Its log is the witness."""

import base64
import dataclasses
import http.server
import json
import threading
import time
import urllib.parse

from .process import run
from .registry import Registry

SERVICE = "registry.example"


@dataclasses.dataclass(frozen=True)
class Asked:
    """One token request and what was answered."""

    at: float  # monotonic seconds
    method: str
    account: str  # "" for nobody
    scope: str
    status: int


def _base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class TokenServer:
    """Gives tokens as the distribution specification has them, signed so that docker-registry takes them.

    users: {name: (password, [repositories])}. refresh: {token: name} of identity tokens. public: repositories that
    everybody may read. answer: (status, headers) instead of a token; omit: leave out expires_in, and it is 60 s.
    """

    def __init__(self, folder, users, refresh=None, public=()):
        self.folder = folder
        self.users, self.refresh, self.public = users, refresh or {}, set(public)
        self.lifetime, self.omit, self.answer = 300, False, None
        self.log = []
        run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tokens",
            "-keyout", folder / "tokens.key", "-out", self.certificate)  # fmt: skip
        body = self.certificate.read_text().split("-----")[2]
        self.chain = ["".join(body.split())]
        self.server = None

    @property
    def certificate(self):
        return self.folder / "tokens.crt"

    @property
    def realm(self):
        return f"http://127.0.0.1:{self.server.server_address[1]}/token"

    def config(self):
        """The registry's side of it."""
        token = {"realm": self.realm, "service": SERVICE, "issuer": "tokens", "rootcertbundle": str(self.certificate)}
        return {"auth": {"token": token}}

    def given(self):
        """(account, scope) → the moments at which a token was given."""
        found = {}
        for asked in list(self.log):
            if asked.status == 200:
                found.setdefault((asked.account, asked.scope), []).append(asked.at)
        return found

    def sign(self, account, scope):
        now = int(time.time())
        _, repository, actions = scope.split(":")
        access = [{"type": "repository", "name": repository, "actions": actions.split(",")}]
        claims = {"iss": "tokens", "sub": account, "aud": SERVICE, "exp": now + 300, "nbf": now - 10, "iat": now,
                  "jti": str(len(self.log)), "access": access}  # fmt: skip
        header = {"typ": "JWT", "alg": "RS256", "x5c": self.chain}
        text = ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
        data = self.folder / f"token-{threading.get_ident()}"
        data.write_text(text)
        run("openssl", "dgst", "-sha256", "-sign", self.folder / "tokens.key", "-out", f"{data}.sig", data)
        return f"{text}.{_base64url(data.with_name(data.name + '.sig').read_bytes())}"

    def handle(self, method, headers, query):
        """(status, headers, body) of one question."""
        scope = query.get("scope", [""])[0]
        account, known = "", True
        if method == "POST":
            account = self.refresh.get(query.get("refresh_token", [""])[0], "")
            known = bool(account)
        elif headers.get("Authorization", "").startswith("Basic "):
            account, _, password = base64.b64decode(headers["Authorization"][6:]).decode().partition(":")
            known = self.users.get(account, (None,))[0] == password
        repository = scope.split(":")[1] if scope.count(":") == 2 else ""
        may = repository in self.public or repository in self.users.get(account, ("", []))[1]
        status, extra = self.answer or ((200 if known and may else 401), {})
        self.log.append(Asked(time.monotonic(), method, account, scope, status))
        if status != 200:
            return status, extra, b"{}"
        answer = {"access_token" if method == "POST" else "token": self.sign(account, scope)}
        if not self.omit:
            answer |= {"expires_in": self.lifetime}
        return 200, extra, json.dumps(answer).encode()

    def __enter__(self):
        tokens = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def reply(self, method, query):
                status, extra, body = tokens.handle(method, self.headers, urllib.parse.parse_qs(query))
                self.send_response(status)
                for name, value in {**extra, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                self.reply("GET", urllib.parse.urlsplit(self.path).query)

            def do_POST(self):
                self.reply("POST", self.rfile.read(int(self.headers["Content-Length"])).decode())

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class GuardedRegistry(Registry):
    """The content of another registry, for those who say who they are. auth: what docker-registry is configured with."""

    def __init__(self, folder, of, auth, name="guarded"):
        super().__init__(folder, name)
        config = json.loads(json.dumps(of.settings))
        config["http"]["addr"] = f"{self.host}:{self.port}"
        self.settings = config | auth
        self.write()

    def ready(self):
        return self.request("GET", "/v2/")[0] == 401


# A user of Basic, as `htpasswd -B` writes it.
BASIC_USER, BASIC_WORD = "berta", "basic-sesame-7"
BASIC_LINE = "berta:$2b$04$u.lqJ/ceVlu3T3Xq9LdJRe.iUnCLr40y4Hj0L/fpE7zfOi8VZKAce\n"


def htpasswd(path):
    """A registry that wants Basic, and knows one user."""
    path.write_text(BASIC_LINE)
    return {"auth": {"htpasswd": {"realm": "basic", "path": str(path)}}}
