"""make demo: what it proves, that it says when something is wrong, and that nothing of it stays."""

import json
import os
import pathlib
import signal
import subprocess

import pytest

from lab.lab import Lab
from lab.nginx import build
from lab.ports import free_port
from lab.wait import wait_for

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="a node needs root")

DEMO = pathlib.Path(__file__).resolve().parents[1] / "demo/run"
HOPS = ["pushed", "seen_by_nginx", "received_by_keeld", "decided", "patched", "pods_replaced", "content_proven"]
NAMES = ["keeld", "keelctl", "ngx_keel_module.so", "ngx_keel_publisher.so"]


@pytest.fixture
def folder(tmp_path):
    """A build folder of this test's own, with what was built."""
    for name in NAMES:
        (tmp_path / name).symlink_to(build() / name)
    return tmp_path


def demo(folder, *words):
    environment = {**os.environ, "KEEL_BUILD": str(folder), "KUBECONFIG": "/nowhere/else"}
    with open(folder / "output", "w") as output:
        return subprocess.Popen([DEMO, *words], stdout=output, stderr=subprocess.STDOUT, env=environment)


def said(folder):
    return (folder / "output").read_text()


def check_timeline(folder, source):
    timeline = json.loads((folder / "demo/timeline.json").read_text())
    moments = [timeline[hop] for hop in HOPS]
    assert moments[0] == 0 and moments == sorted(moments)
    digests = timeline["digests"]
    assert digests["source"] == source
    assert digests["pushed"]["before"] != digests["pushed"]["after"]
    for side in ("before", "after"):
        assert list(digests[side].values()) == [digests["pushed"][side]] * 2
    assert not digests["before"].keys() & digests["after"].keys()


def test_demo_tells_every_hop_and_leaves_nothing(folder, untouched):
    running = demo(folder)
    assert running.wait(180) == 0, said(folder)
    check_timeline(folder, "containerd")
    for text in ("the machine is as it was", "keelctl why Deployment/keel-demo/app", "keelctl history"):
        assert text in said(folder)


def test_demo_on_a_cluster_that_is_there(folder):
    """Its three namespaces come and go; nothing else of the cluster changes."""
    with Lab(nodes=1, cache=False) as lab:
        names = {item["metadata"]["name"] for item in lab.kube.list("namespaces")}
        words = ["--cluster", lab.api.kubeconfig("admin"), "--cache", f"127.0.0.1:{free_port()}"]
        refused = demo(folder, *words)
        assert refused.wait(30) != 0 and "YES=1" in said(folder)
        assert {item["metadata"]["name"] for item in lab.kube.list("namespaces")} == names
        running = demo(folder, *words, "--yes")
        assert running.wait(180) == 0, said(folder)
        assert {item["metadata"]["name"] for item in lab.kube.list("namespaces")} == names
        check_timeline(folder, "imageID")


def test_demo_leaves_foreign_namespaces_alone(folder):
    with Lab(nodes=0, cache=False) as lab:
        lab.kube.namespace("keel-demo-never", {"somebody": "elses"})
        kubeconfig = lab.api.kubeconfig("admin")
        running = demo(folder, "--cluster", kubeconfig, "--cache", f"127.0.0.1:{free_port()}", "--yes")
        assert running.wait(60) != 0 and "keel-demo-never already" in said(folder)
        left = lab.kube.get("namespaces", None, "keel-demo-never")
        assert left["metadata"]["labels"]["somebody"] == "elses" and left["status"]["phase"] == "Active"
        assert lab.kube.get("namespaces", None, "keel-demo") is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_interrupted_demo_cleans_up(folder, untouched, number):
    running = demo(folder)
    wait_for("the demo's pods", lambda: "three Deployments run" in said(folder) or running.poll() is not None, 120)
    assert running.poll() is None, said(folder)
    running.send_signal(number)
    assert running.wait(60) == 1, said(folder)
    assert "interrupted" in said(folder)
    assert not (folder / "demo/timeline.json").exists()


def test_demo_fails_when_keeld_does_not_work(folder):
    (folder / "keeld").unlink()
    (folder / "keeld").write_text("#!/bin/sh\necho it is broken >&2\nexit 3\n")
    (folder / "keeld").chmod(0o755)
    running = demo(folder)
    assert running.wait(120) == 1
    assert "it is broken" in said(folder) and "ended with 3" in said(folder)
    assert not (folder / "demo/timeline.json").exists()
