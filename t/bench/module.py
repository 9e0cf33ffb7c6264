"""What the module costs: real nginx with and without it, side by side, on connections that stay open.

Instructions are callgrind's, of a single process, as the slope between two numbers of requests: what a start costs
falls out. Time is the workers' own (their run time by the scheduler), because a shared machine says nothing else.
"""

import http.client
import pathlib
import re
import signal
import socket
import statistics
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "t/module"))

from cache import Cache, digest_of  # noqa: E402

from lab.nginx import build  # noqa: E402
from lab.ports import free_port  # noqa: E402
from lab.process import Server, program  # noqa: E402
from lab.registry import ACCEPT, OCI_INDEX, RegistryClient  # noqa: E402
from lab.wait import wait_for  # noqa: E402

BODY = 1510  # bytes: a manifest of usual size
# Lengths of names and of what comes with a request decide when nginx's pool of it needs one more block: a figure of
# one length would be that of chance.
SHAPES = [f"library/{'some-application-of-ours-' * 3}"[: 12 + 2 * number] + "x" for number in range(30)]
AGENT = "containerd/1.7.24~ds1"


def manifest_path(number):
    shape = SHAPES[number % len(SHAPES)]
    return f"/v2/{shape}/manifests/1.{number % 100}-alpine?ns=docker.io"


def blob_path(number):
    return f"/v2/{SHAPES[number % len(SHAPES)]}/blobs/{digest_of(number % 100)}?ns=docker.io"


class Origin(Server):
    """A registry that answers at once, always the same: another nginx."""

    name = "origin"
    stop_signal = signal.SIGQUIT

    def __init__(self, folder):
        super().__init__(folder)
        self.folder.chmod(0o755)
        self.port = free_port()
        digest = digest_of("the manifest")
        temporary = "".join(
            f"{kind}_temp_path {self.folder}/temp-{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (self.folder / "nginx.conf").write_text(f"""
            daemon off; worker_processes 1; error_log {self.folder}/error.log; pid {self.folder}/nginx.pid;
            events {{ worker_connections 512; }}
            http {{ access_log off; keepalive_requests 100000000; {temporary}
                server {{ listen 127.0.0.1:{self.port};
                    location / {{ default_type {OCI_INDEX}; add_header Docker-Content-Digest {digest};
                        add_header Docker-Distribution-Api-Version registry/2.0; add_header ETag '"{digest}"';
                        return 200 "{'m' * BODY}"; }} }} }}
        """)

    def command(self):
        return [program("nginx"), "-p", f"{self.folder}/", "-e", f"{self.folder}/error.log", "-c", f"{self.folder}/nginx.conf"]

    def ready(self):
        return RegistryClient(self.port).request("GET", "/")[0] == 200


class Measured(Cache):
    """A cache as the tests have it, without a log of each request, under a program that measures it."""

    under = ()

    def write(self):
        super().write()
        text = self.config.read_text().replace("error.log info", "error.log crit")
        text = re.sub(r"log_format keel [^;]*;|access_log \S+ keel;", "", text).replace("http {", "http { access_log off;", 1)
        self.config.write_text(text.replace("client_max_body_size 0;", "client_max_body_size 0; keepalive_requests 100000000;"))

    def command(self):
        return [*self.under, *super().command()]


class Client:
    """One connection that stays open, one request after the other, as nodes ask."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.settimeout(600)
        self.left = b""

    def send(self, method, path):
        self.socket.sendall(
            f"{method} {path} HTTP/1.1\r\nHost: cache:5000\r\nUser-Agent: {AGENT}\r\nAccept: {ACCEPT}\r\n\r\n".encode()
        )

    def ask(self, method, paths):
        """Asks for all the paths; every answer must be a 200."""
        for path in paths:
            self.send(method, path)
            self.answer(0 if method == "HEAD" else BODY)

    def answer(self, body):
        while (end := self.left.find(b"\r\n\r\n")) < 0 or len(self.left) < end + 4 + body:
            more = self.socket.recv(1 << 20)
            assert more, "nginx closed the connection"
            self.left += more
        assert self.left.startswith(b"HTTP/1.1 200 "), self.left[:200]
        self.left = self.left[end + 4 + body :]

    def close(self):
        self.socket.close()


class Clients:
    """Some at once, so that a worker has something to do while the others wait."""

    def __init__(self, port, count=8):
        self.clients = [Client(port) for _ in range(count)]

    def head(self, paths):
        for begin in range(0, len(paths), len(self.clients)):
            asked = list(zip(self.clients, paths[begin : begin + len(self.clients)]))
            for client, path in asked:
                client.send("HEAD", path)
            for client, _ in asked:
                client.answer(0)

    def close(self):
        for client in self.clients:
            client.close()


class ModuleBench:
    """Figures by name; folder is for everything that it writes."""

    def __init__(self, folder, tell):
        self.folder, self.tell = pathlib.Path(folder), tell
        self.folder.chmod(0o755)
        self.count = 0

    def __enter__(self):
        self.origin = Origin(self.folder / "origin").start().wait_ready()
        return self

    def __exit__(self, *error):
        self.origin.stop()

    def cache(self, module, **options):
        self.count += 1
        options.setdefault("workers", 1)
        options.setdefault("zone", "keel:8m")
        return Measured(self.folder / f"nginx-{self.count}", self.origin.port, module=module, **options)

    # --- instructions -----------------------------------------------------------------------------------

    def counted(self, module, method, path, requests):
        """{function: instructions} of a whole life with that many requests; each path was asked for before."""
        nginx = self.cache(module, main="master_process off;")
        out = nginx.folder / "callgrind.out"
        nginx.under = (program("valgrind"), "--tool=callgrind", f"--callgrind-out-file={out}", "--quiet")
        nginx.stop_signal, nginx.stop_deadline = signal.SIGTERM, 120
        with nginx:
            client = Client(nginx.port)
            client.ask(method, (path(number) for number in range(300)))
            client.ask(method, (path(number) for number in range(requests)))
            if module:
                tags = nginx.api("status")[1]["zone"]["tags"]
                assert tags == (300 if path is manifest_path else 0), f"{tags} tags: it was not at work"
            client.close()
        return functions(out.read_text())

    def slope(self, module, method, path, requests):
        few, many = 300, 300 + requests // 8
        self.tell(f"  {method} under callgrind, {'with' if module else 'without'} the module")
        one, other = (self.counted(module, method, path, number) for number in (few, many))
        return {name: (other.get(name, 0) - one.get(name, 0)) / (many - few) for name in {*one, *other}}

    def overhead(self, method, path, requests):
        """(instructions more a request, of a plain one, of these in the module's own functions)."""
        off = self.slope(False, method, path, requests)
        on = self.slope(True, method, path, requests)
        own = sum(value for name, value in on.items() if "keel" in name)
        return sum(on.values()) - sum(off.values()), sum(off.values()), own

    # --- time -------------------------------------------------------------------------------------------

    def throughput(self, requests, pairs=400):
        """([requests a CPU second of the worker with the module], [without]), pair by pair.

        Many short pairs: what else runs on the machine changes in the time of long ones.
        """
        pairs_seen = []
        with self.cache(True) as on, self.cache(False) as off:
            clients = {nginx: Clients(nginx.port) for nginx in (on, off)}
            paths = [manifest_path(number % len(SHAPES)) for number in range(requests)]
            workers = {nginx: nginx.workers_now()[0] for nginx in (on, off)}

            def rate(nginx):
                begin = run_time(workers[nginx])
                clients[nginx].head(paths)
                return requests / (run_time(workers[nginx]) - begin)

            for nginx in (on, off):
                clients[nginx].head(paths)
            for number in range(pairs):
                order = (on, off) if number % 2 else (off, on)
                seen = {nginx: rate(nginx) for nginx in order}
                pairs_seen.append((seen[on], seen[off]))
                if number % 20 == 19:
                    self.tell(f"  {number + 1} pairs: median {statistics.median(a / b for a, b in pairs_seen):.3f}")
            same = on.counters()['keel_observations_total{change="same"}']
            assert same > pairs * requests, f"only {same} were observed"
            for client in clients.values():
                client.close()
        return tuple(zip(*pairs_seen))

    def observe_cost(self, workers=4):
        """Per worker: nanoseconds of one Table::observe() of a known tag, all workers at once on one zone."""
        module = build() / "bench/ngx_keel_bench_module.so"
        nginx = self.cache(module, workers=workers, zone="", observe="", http="keel_bench zone=bench:4m tags=1000 times=200000;")
        text = nginx.config.read_text()
        text = re.sub(r"keel_cache_name \S+;|keel_api;", "", text).replace("error.log crit", "error.log notice")
        nginx.config.write_text(text.replace("worker_processes 4;", f"worker_processes {workers};"))
        nginx.start()
        pattern = r"keel_bench: median (\d+) p99 (\d+) all (\d+)"

        def told():
            assert nginx.running(), nginx.tail()
            rows = re.findall(pattern, nginx.errors())
            return rows if len(rows) == workers else None

        try:
            found = wait_for("all workers", told, 120, 0.1)
        finally:
            nginx.stop()
        return [tuple(map(int, row)) for row in found]

    # --- memory -----------------------------------------------------------------------------------------

    def tags_per_mb(self):
        """Tags that a zone of 1 MB keeps, with names of 70 bytes and four digests each."""
        from cache import REGISTRY, Upstream

        origin = Upstream()
        repository = "library/some-application-of-ours-with-a-name"
        names = [f"t{number:07}" for number in range(3000)]
        assert len(f"{REGISTRY}/{repository}:{names[0]}") == 70
        try:
            with Cache(self.folder / "tags", origin.port, zone="keel:1m", workers=1) as nginx:
                connection = http.client.HTTPConnection("127.0.0.1", nginx.port)
                for turn in range(4):
                    origin.tags(**{name: digest_of(f"{name} {turn}") for name in names})
                    for name in names:
                        connection.request("HEAD", f"/v2/{repository}/manifests/{name}", headers={"Accept": ACCEPT})
                        assert connection.getresponse().read() == b""
                    if turn == 0:
                        kept = {tag["name"] for tag in table(nginx)}
                        names = [name for name in names if name in kept]
                connection.close()
                tags = list(table(nginx))
        finally:
            origin.stop()
        assert len(tags) == len(names) and all(len(tag["history"]) == 4 for tag in tags)
        return len(tags)


def table(nginx):
    """Every tag of the table, page by page."""
    query = "tags?limit=500"
    while query:
        page = nginx.api(query)[1]
        yield from page["tags"]
        query = page["next"] and f"tags?limit=500&since={page['next']}&epoch={page['epoch']}"


def run_time(pid):
    """Seconds that a process of one thread has run, to the nanosecond."""
    return int(pathlib.Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def functions(text):
    """{function: its own instructions} of a callgrind file."""
    names, costs, function, calls = {}, {}, None, False
    for line in text.splitlines():
        if line.startswith("fn="):
            number, _, name = line[3:].partition(" ")
            function = names.setdefault(number, name) if name else names[number]
        elif line.startswith("cfn="):
            number, _, name = line[4:].partition(" ")
            if name:
                names[number] = name
        elif line.startswith("calls="):
            calls = True  # the next line is the callee's, not its own
        elif line[:1] in "+-*0123456789" and line and function:
            if not calls:
                costs[function] = costs.get(function, 0) + int(line.split()[1])
            calls = False
    return costs

