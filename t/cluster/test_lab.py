"""The lab itself: it works, and it leaves the machine as it was."""

import os

import pytest

from lab import machine
from lab.lab import Lab
from lab.machine import Machine
from lab.workloads import deployment

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="a node needs root")


def run_two_builds(lab):
    """A Deployment on a tag, restarted by hand after the tag moved: the node's containerd tells what runs."""
    first = lab.push("lab/app", "latest", "one")
    lab.kube.namespace("lab")
    lab.kube.create(deployment("lab", "app", lab.image("lab/app:latest"), 2, probe=True))
    lab.kube.wait_rolled_out("lab", "app")
    running = lab.running("lab")
    assert [item["digest"] for item in running] == [first.digest] * 2
    assert {lab.content(item) for item in running} == {"one"}
    second = lab.push("lab/app", "latest", "two")
    assert second.digest != first.digest
    template = {"metadata": {"annotations": {"restarted": "now"}}}
    lab.kube.patch("deployments", "lab", "app", {"spec": {"template": template}})
    lab.kube.wait_rolled_out("lab", "app")
    pods = {pod["metadata"]["name"] for pod in lab.kube.pods("lab", "app")}
    running = [item for item in lab.running("lab") if item["pod"] in pods]
    assert [(item["digest"], item["config"]) for item in running] == [(second.digest, second.config)] * 2
    assert {lab.content(item) for item in running} == {"two"}


@pytest.mark.parametrize("end", ["stopped", "containerd killed"])
def test_machine_is_as_it_was(end, untouched):
    """Sysctls, mounts, cgroups, interfaces, routes, folders and shims: a node that ran pods leaves none behind."""
    with Lab(nodes=1, module=None) as lab:
        run_two_builds(lab)
        assert machine.differences(untouched, machine.snapshot()), "a running node changes the machine"
        if end == "containerd killed":
            lab.node.containerd.kill()
    assert not [point for point in machine.mounts() if point.startswith(str(lab.folder))]
    assert not lab.folder.exists()


def test_killed_lab_is_mended_by_the_next(tmp_path):
    """What a lab found is kept until it has been put back, even if the lab itself was killed."""
    before = machine.read_sysctls()
    if before["kernel/panic"] == "17":
        pytest.fail("the machine has this test's value already")
    killed = Machine(tmp_path / "state")
    killed.__enter__()
    killed.lock.close()  # as the kernel does it for a process that is gone
    panic = "/proc/sys/kernel/panic"
    with open(panic, "w") as file:
        file.write("17")
    with Machine(tmp_path / "state"):
        pass
    assert machine.read_sysctls()["kernel/panic"] == before["kernel/panic"]
