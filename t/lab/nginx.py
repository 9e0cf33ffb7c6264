"""The cache: Debian's nginx, with the module, under the configuration of conf/nginx.

The shipped files are what runs: ports, paths and names are put in their place, and a place that is not
there any more is an error.
"""

import base64
import json
import os
import pathlib
import re
import secrets
import shutil
import signal

from .ports import free_port
from .process import Failed, Server, program, run
from .registry import RegistryClient

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONF = ROOT / "conf/nginx"


def build():
    """Where make puts what it builds."""
    return pathlib.Path(os.environ.get("KEEL_BUILD", ROOT / "build"))


def new_secret(path):
    """A secret file as the module and keeld read them."""
    path = pathlib.Path(path)
    path.write_text("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode() + "\n")
    path.chmod(0o600)
    return path


def _replace(text, *pairs):
    for old, new in pairs:
        if old not in text:
            raise Failed(f"conf/nginx: {old!r} is not there any more")
        text = text.replace(old, str(new))
    return text


# A backend's line in the map of keel/http.conf, and a registry's server in nginx.conf.
MAPPED = re.compile(r'^    (""|[a-z0-9.]+\.io) +"(\S+) +(\S+)"; *(#.*)?\n', re.MULTILINE)
SERVED = re.compile(r"^    server \{\n        listen (\d+);\n        set \$cache_ns ([a-z0-9.]+);\n.*?^    \}\n\n?", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"names=[^;]*;")


class Nginx(Server):
    """nodes[registry] is the port that nodes ask, lookup_url what keeld asks, api_url the module's control API.

    api_secret is the file that signs for it, under the name keeld; api_socket the same API on a unix socket.
    """

    name = "nginx"
    stop_signal = signal.SIGQUIT
    stop_deadline = 5.0

    def __init__(self, folder, registries, companion=None, secret=None, cache="cache-a", module=True, extra="",
                 address=None, one_port=False, resolver=None):  # fmt: skip
        """registries: {name: port of the pull-through registry, or HOST:PORT}. companion, secret: URL and file for events.

        module: False runs the same configuration without it; or the path of another build. extra: more
        directives for the http block. address: (host, port) where nodes ask, instead of a free port on loopback.
        one_port: all registries on one port, by ?ns=; the first of them without. resolver: ADDRESS:PORT for names.
        """
        super().__init__(folder)
        self.module = build() / "ngx_keel_module.so" if module is True else module
        self.host = address[0] if address else "127.0.0.1"
        shared = address[1] if address else free_port() if one_port else None
        self.nodes = {registry: shared or free_port() for registry in registries}
        self.api_port, self.lookup_port = free_port(), free_port()
        self.api_secret, self.api_socket = new_secret(self.folder / "api.secret"), self.folder / "api.sock"
        self.extra = extra
        # Workers run as another user: they pass through the folders above and own their caches.
        self.folder.chmod(0o711)
        (self.folder / "keel").mkdir(exist_ok=True)
        (self.folder / "blobs").mkdir(exist_ok=True)
        self.config = self.folder / "nginx.conf"
        main = _replace(
            (CONF / ("nginx-one-port.conf" if one_port else "nginx.conf")).read_text(),
            ("modules/ngx_keel_module.so", self.module),
            ("worker_processes auto;", "worker_processes 2;\ndaemon off;"),
            ("/var/log/nginx/error.log warn", f"{self.folder}/error.log notice"),
            ("/var/log/nginx/access.log", f"{self.folder}/access.log"),
            ("/run/nginx.pid", f"{self.folder}/nginx.pid"),
        )
        if one_port:
            main = _replace(main, ("listen 5000;", f"listen {self.host}:{shared};"))
        else:
            main = self._servers(main)
        # Temporary files of its own: Debian's are below /var/lib/nginx.
        temporary = "".join(
            f"{kind}_temp_path {self.folder}/temp-{kind};\n    "
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        main = _replace(main, ("http {\n    ", f"http {{\n    {temporary}{extra}\n    "))
        self._write(self.config, self._names(main) if one_port else main)
        self._write(self.folder / "keel/locations.conf", (CONF / "keel/locations.conf").read_text())
        shared_part = _replace(
            (CONF / "keel/http.conf").read_text(),
            ("zone=keel:16m", "zone=keel:4m"),
            ("/var/lib/nginx/keel", f"{self.folder}/state"),
            ("cache-a", cache),
            ("keys_zone=blobs:64m max_size=50g min_free=5g", "keys_zone=blobs:1m max_size=1g"),
            ("/var/cache/nginx/blobs", f"{self.folder}/blobs"),
            ("127.0.0.1:5080;", f"127.0.0.1:{self.api_port}; listen unix:{self.api_socket}; allow unix:;"),
            ("/etc/nginx/keel/api.secret", str(self.api_secret)),
            ("127.0.0.1:5081", f"127.0.0.1:{self.lookup_port}"),
            ("resolver 127.0.0.11 valid=10s", f"resolver {resolver} valid=1s" if resolver else "resolver 127.0.0.11"),
        )
        if companion:
            shared_part = _replace(
                shared_part,
                ("http://127.0.0.1:9320/v1/events", companion),
                ("secret=/etc/nginx/keel/events.secret", f"secret={secret}" if secret else ""),
            )
        else:
            shared_part = re.sub(r"\nkeel_companion [^;]*;", "", shared_part)
        self._write(self.folder / "keel/http.conf", self._names(self._backends(shared_part, registries)))

    def _servers(self, main):
        """As many servers as registries, each as the shipped ones are."""
        shipped = list(SERVED.finditer(main))
        if not shipped:
            raise Failed("conf/nginx/nginx.conf: no server of a registry is there any more")
        one = shipped[0]
        servers = "".join(
            one[0].replace(f"listen {one[1]}", f"listen {self.host}:{port}").replace(one[2], registry)
            for registry, port in self.nodes.items()
        )
        return main[: one.start()] + servers + main[shipped[-1].end() :]

    def _backends(self, text, registries):
        """The map with these registries; the first one is asked where there is no ?ns=."""
        shipped = list(MAPPED.finditer(text))
        if len(shipped) < 2 or shipped[0][1] != '""':
            raise Failed("conf/nginx/keel/http.conf: the map of registries is not there any more")
        lines = []
        for registry, backend in registries.items():
            backend = f"127.0.0.1:{backend}" if isinstance(backend, int) else backend
            spelling = f'"~^{re.escape(registry)}$"'.replace(":", "(:|%3A)")
            lines += [f'    {ns} "{registry} {backend}";\n' for ns in ([spelling] if lines else ['""', spelling])]
        return text[: shipped[0].start()] + "".join(lines) + text[shipped[-1].end() :]

    def _names(self, text):
        if not NAMED.search(text):
            raise Failed("conf/nginx: no names= of keel_registry is there any more")
        return NAMED.sub(f"names={','.join(self.nodes)};", text)

    def _write(self, path, text):
        path.write_text(self._without_module(text))

    def _without_module(self, text):
        if self.module:
            return text
        text = re.sub(r"\n\s*(load_module|keel\w*|log_format keel)\b[^;]*;", "", text)
        return re.sub(r"(access_log \S+) keel;", r"\1;", text)

    def command(self):
        return [program("nginx"), "-p", f"{self.folder}/", "-e", f"{self.folder}/error.log", "-c", self.config]

    def ready(self):
        return any(self.through(registry).request("GET", "/v2/")[0] == 200 for registry in self.nodes)

    def forget(self):
        """Restarts it with an empty tag table."""
        self.stop()
        shutil.rmtree(self.folder / "state")
        self.start().wait_ready()

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

    @property
    def lookup_url(self):
        return f"http://127.0.0.1:{self.lookup_port}"

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

    def tag(self, name):
        """What the table knows of one tag by its full name."""
        return next((tag for tag in self.tags() if tag["tag"] == name), None)

    def tail(self, lines=30):
        log = self.folder / "error.log"
        text = log.read_text(errors="replace").splitlines()[-lines:] if log.exists() else []
        return "\n".join([super().tail(5), f"--- nginx ({log})", *text])
