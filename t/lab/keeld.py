"""keeld and keelctl, as they were built."""

import http.client
import json
import pathlib
import socket
import subprocess

import yaml

from .nginx import build, new_secret
from .ports import free_port
from .process import Server


def merged(base, change):
    """base with change laid over it, mapping by mapping; a value None in change removes the key."""
    result = dict(base)
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout=30):
        super().__init__("localhost", timeout=timeout)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Keeld(Server):
    """config: what keeld.yaml holds, as a mapping; a listener on a socket, one for events, and a ledger are added.

    Change `config` and call write() (and restart()) for other settings.
    """

    name = "keeld"

    def __init__(self, folder, config, arguments=()):
        super().__init__(folder)
        self.socket = self.folder / "keeld.sock"
        self.events_port = free_port()
        self.arguments = list(arguments)
        self.path = self.folder / "keeld.yaml"
        self.secret = self.folder / "events.secret"
        if not self.secret.exists():
            new_secret(self.secret)
        own = {
            "mode": "act",
            "cap": {"workloads": 0},
            "listen": [
                {"at": f"unix:{self.socket}", "serve": ["api", "metrics", "events"]},
                {"at": f"127.0.0.1:{self.events_port}", "serve": ["events"]},
            ],
            "ledger": {"path": f"{self.folder}/ledger.db"},
            "events": {"secret": str(self.secret)},
            "defaults": {"soak": "0s"},
        }
        self.config = merged(own, config)
        self.write()

    def write(self, change=None):
        """Writes keeld.yaml, after laying `change` over what is there."""
        self.config = merged(self.config, change or {})
        self.path.write_text(yaml.safe_dump(self.config, sort_keys=False))

    @property
    def events_url(self):
        return f"http://127.0.0.1:{self.events_port}/v1/events"

    @property
    def ledger(self):
        return pathlib.Path(self.config["ledger"]["path"])

    def command(self):
        return [build() / "keeld", "--config", self.path, *self.arguments]

    def ready(self):
        return self.socket.exists() and self.request("GET", "/readyz")[0] == 200

    def request(self, method, path, body=None, headers=None):
        """(status, JSON or text) from the socket."""
        connection = UnixConnection(self.socket)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        if "json" in answer.headers.get("Content-Type", ""):
            return answer.status, json.loads(data)
        return answer.status, data.decode(errors="replace")

    def get(self, path):
        status, body = self.request("GET", path)
        assert status == 200, f"GET {path}: {status} {body}"
        return body

    def ctl(self, *words, deadline=30):
        """keelctl against this keeld: (exit code, standard output, standard error)."""
        done = subprocess.run(
            [build() / "keelctl", "--server", f"unix:{self.socket}", *map(str, words)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=deadline,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    def ctl_json(self, *words):
        code, out, err = self.ctl("-o", "json", *words)
        assert out.strip(), f"keelctl {' '.join(map(str, words))}: exit {code}: {err}"
        return json.loads(out)
