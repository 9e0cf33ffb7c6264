"""Names that move: a companion that has another address is found without a reload. Needs root, for a hosts file of its own."""

import os

import pytest
from module.cache import REGISTRY, Cache, Receiver, push

from lab.ports import free_port
from lab.process import program
from lab.registry import Registry
from lab.wait import wait_for

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="a mount namespace needs root")


class Elsewhere(Cache):
    """An nginx that reads `hosts` in the place of /etc/hosts."""

    def command(self):
        bind = f'mount --bind {self.folder}/hosts /etc/hosts && exec "$0" "$@"'
        return [program("unshare"), "--mount", "--propagation", "private", "sh", "-c", bind, *super().command()]

    def move(self, address):
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n{address} companion.example\n")


def test_a_companion_that_moves_is_followed(tmp_path):
    (tmp_path / "nginx").mkdir()
    port = free_port()
    one, two = Receiver(host="127.0.0.2"), Receiver(host="127.0.0.3")
    one.port = two.port = port
    tag = f"{REGISTRY}/test/app:latest"
    with Registry(tmp_path / "registry", "registry") as registry:
        nginx = Elsewhere(tmp_path / "nginx", registry.port, companion=f"http://companion.example:{port}/v1/events")
        nginx.move("127.0.0.2")
        one.headers = {"Connection": "close"}  # the process goes, and its connections with it
        one.start()
        try:
            with nginx:
                first = push(registry, "test/app", "latest", "one")
                nginx.pull("test/app")
                one.wait(tag, first)
                one.stop()
                two.start()
                nginx.move("127.0.0.3")
                second = push(registry, "test/app", "latest", "two")
                nginx.pull("test/app")
                two.wait(tag, second, 30)
                assert len(one.events()) == 1

                def acked():
                    status = nginx.api("status")[1]
                    return status["companions"][0]["acked"] == status["seq"]

                wait_for("the second one has acknowledged everything", acked, 10)
        finally:
            one.stop()
            two.stop()
