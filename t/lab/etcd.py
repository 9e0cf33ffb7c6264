"""etcd, for one API server, without the durability that nobody needs here."""

import urllib.request

from .ports import free_port
from .process import Server, program


class Etcd(Server):
    name = "etcd"

    def __init__(self, folder):
        super().__init__(folder)
        self.port = free_port()
        self.peer_port = free_port()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def command(self):
        peer = f"http://127.0.0.1:{self.peer_port}"
        return [
            program("etcd"), "--name=lab", f"--data-dir={self.folder}/data", "--unsafe-no-fsync",
            f"--listen-client-urls={self.url}", f"--advertise-client-urls={self.url}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=lab={peer}",
        ]  # fmt: skip

    def ready(self):
        with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
            return b'"true"' in answer.read()
