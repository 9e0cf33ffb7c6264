"""The cache: Debian's nginx, with the module, under the configuration of conf/nginx.

The shipped files are what runs: ports, paths and names are put in their place, and a place that is not
there any more is an error.
"""

import json
import os
import pathlib
import re
import signal

from .ports import free_port
from .process import Failed, Server, program, run
from .registry import RegistryClient

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONF = ROOT / "conf/nginx"


def build():
    """Where make puts what it builds."""
    return pathlib.Path(os.environ.get("KEEL_BUILD", ROOT / "build"))


def _replace(text, *pairs):
    for old, new in pairs:
        if old not in text:
            raise Failed(f"conf/nginx: {old!r} is not there any more")
        text = text.replace(old, str(new))
    return text


class Nginx(Server):
    """nodes[registry] and lookups[registry] are ports; api_url is the module's control API."""

    name = "nginx"
    stop_signal = signal.SIGQUIT
    stop_deadline = 5.0

    def __init__(self, folder, registries, companion=None, secret=None, cache="cache-a", module=True, extra="",
                 address=None):  # fmt: skip
        """registries: {name: port of the pull-through registry}. companion, secret: URL and file for events.

        module: False runs the same configuration without it; or the path of another build. extra: more
        directives for the http block. address: (host, port) where nodes ask, instead of a free port on loopback.
        """
        super().__init__(folder)
        self.module = build() / "ngx_keel_module.so" if module is True else module
        self.host = address[0] if address else "127.0.0.1"
        self.nodes = {registry: address[1] if address else free_port() for registry in registries}
        self.lookups = {registry: free_port() for registry in registries}
        self.api_port = free_port()
        self.extra = extra
        # Workers run as another user: they pass through the folders above and own their caches.
        self.folder.chmod(0o711)
        (self.folder / "registries").mkdir(exist_ok=True)
        (self.folder / "blobs").mkdir(exist_ok=True)
        self.config = self.folder / "nginx.conf"
        main = _replace(
            (CONF / "nginx.conf").read_text(),
            ("modules/ngx_keel_module.so", self.module),
            ("worker_processes auto;", "worker_processes 2;\ndaemon off;"),
            ("/var/log/nginx/error.log warn", f"{self.folder}/error.log notice"),
            ("/var/log/nginx/access.log", f"{self.folder}/access.log"),
            ("/run/nginx.pid", f"{self.folder}/nginx.pid"),
            ("zone=keel:16m", "zone=keel:4m"),
            ("/var/lib/nginx/keel", f"{self.folder}/keel"),
            ("cache-a", cache),
            ("keys_zone=blobs:64m max_size=50g", "keys_zone=blobs:1m max_size=1g"),
            ("/var/cache/nginx/blobs", f"{self.folder}/blobs"),
            ("127.0.0.1:5080", f"127.0.0.1:{self.api_port}"),
        )
        if companion:
            main = _replace(
                main,
                ("http://127.0.0.1:9320/v1/events", companion),
                ("secret=/etc/nginx/keel/events.secret", f"secret={secret}" if secret else ""),
            )
        else:
            main = re.sub(r"\n *keel_companion [^;]*;", "", main)
        # Temporary files of its own: Debian's are below /var/lib/nginx.
        temporary = "".join(
            f"{kind}_temp_path {self.folder}/temp-{kind};\n    "
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        main = _replace(main, ("http {\n    ", f"http {{\n    {temporary}{extra}\n    "))
        self.config.write_text(self._without_module(main))
        for registry, port in registries.items():
            self._write_registry(registry, port)

    def _write_registry(self, registry, port):
        text = _replace(
            (CONF / "registries/docker.io.conf").read_text(),
            ("docker.io", registry),
            ("docker_io", re.sub(r"\W", "_", registry)),
            ("listen 5000", f"listen {self.host}:{self.nodes[registry]}"),
            ("127.0.0.1:5001", f"127.0.0.1:{self.lookups[registry]}"),
            ("127.0.0.1:5002", f"127.0.0.1:{port}"),
        )
        (self.folder / "registries" / f"{registry}.conf").write_text(self._without_module(text))

    def _without_module(self, text):
        if self.module:
            return text
        text = re.sub(r"\n\s*(load_module|keel\w*|log_format keel)\b[^;]*;", "", text)
        return re.sub(r"(access_log \S+) keel;", r"\1;", text)

    def command(self):
        return [program("nginx"), "-p", f"{self.folder}/", "-e", f"{self.folder}/error.log", "-c", self.config]

    def ready(self):
        return any(self.through(registry).request("GET", "/v2/")[0] == 200 for registry in self.nodes)

    def test(self):
        """nginx -t; raises with what nginx says."""
        run(*self.command(), "-t")

    def reload(self):
        self.process.send_signal(signal.SIGHUP)

    def through(self, registry):
        """A registry client that asks as a node does (add query=f"?ns={registry}" as containerd does)."""
        return RegistryClient(self.nodes[registry], self.host)

    def url(self, registry):
        return f"http://{self.host}:{self.nodes[registry]}"

    def lookup_url(self, registry):
        return f"http://127.0.0.1:{self.lookups[registry]}"

    @property
    def api_url(self):
        return f"http://127.0.0.1:{self.api_port}/keel"

    def api(self, path):
        """(status, JSON or text) of GET /keel/<path>."""
        status, headers, body = RegistryClient(self.api_port).request("GET", f"/keel/{path}")
        return status, json.loads(body) if "json" in headers.get("Content-Type", "") else body.decode()

    def tags(self):
        """The module's tag table, every page of it."""
        tags, query = [], ""
        while True:
            status, page = self.api(f"tags{query}")
            assert status == 200, page
            tags += page["tags"]
            if not page.get("next"):
                return tags
            query = f"?since={page['next']}&epoch={page['epoch']}"

    def tail(self, lines=30):
        log = self.folder / "error.log"
        text = log.read_text(errors="replace").splitlines()[-lines:] if log.exists() else []
        return "\n".join([super().tail(5), f"--- nginx ({log})", *text])
