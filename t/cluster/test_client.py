"""keeld's Kubernetes client, reflector and Lease against a real API server: each test of client_test.cc is one here."""

import contextlib
import os
import pathlib
import re
import socket
import subprocess
import threading

import pytest
import yaml

from lab.kubernetes import ControlPlane
from lab.nginx import build
from lab.process import run

HERE = pathlib.Path(__file__).parent
TESTS = [".".join(found) for found in re.findall(r"^TEST_F\((\w+), (\w+)\)", (HERE / "client_test.cc").read_text(), re.M)]


def certificates(folder):
    """An authority for client certificates, and one that it has signed for the user `certified`."""
    folder.mkdir()

    def key_and(name, *words):
        run("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-keyout", folder / f"{name}.key",
            "-out", folder / f"{name}.pem", "-subj", f"/O=testers/CN={name}", *words)  # fmt: skip

    key_and("authority", "-x509", "-days", "2")
    key_and("certified")
    run("openssl", "x509", "-req", "-in", folder / "certified.pem", "-CA", folder / "authority.pem",
        "-CAkey", folder / "authority.key", "-CAcreateserial", "-days", "2", "-out", folder / "certified.crt")  # fmt: skip
    return folder


def with_certificate(kubeconfig, folder):
    """The same cluster, as the user of the certificate."""
    config = yaml.safe_load(pathlib.Path(kubeconfig).read_text())
    config["users"][0]["user"] = {"client-certificate": "certified.crt", "client-key": "certified.key"}
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


@contextlib.contextmanager
def control(api, path):
    """Serves restart, stop and start of the API server on a unix socket."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rw") as stream:
                word = stream.readline().strip()
                try:
                    if word in ("restart", "stop"):
                        api.stop()
                    if word in ("restart", "start"):
                        api.start().wait_ready()
                    stream.write("ok\n")
                except Exception as error:  # for the test to see
                    stream.write(f"{word}: {error}\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("client")
    certified = certificates(folder / "certificates")
    extra = [f"--client-ca-file={certified}/authority.pem"]
    with ControlPlane(folder / "cp", controllers=False, extra=extra, users={"limited": []}) as plane:
        with control(plane.api, folder / "control"):
            yield {
                **os.environ,
                "KEEL_TEST_KUBECONFIG": str(plane.api.kubeconfig("admin")),
                "KEEL_TEST_CERTIFICATE": str(with_certificate(plane.api.kubeconfig("admin"), certified)),
                "KEEL_TEST_LIMITED_TOKEN": plane.api.tokens["limited"],
                "KEEL_TEST_CONTROL": str(folder / "control"),
            }


@pytest.mark.parametrize("name", TESTS)
def test_client(environment, name):
    done = subprocess.run(
        [build() / "cluster_tests", f"--gtest_filter={name}"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0 and "[  PASSED  ] 1 test." in done.stdout, done.stdout
