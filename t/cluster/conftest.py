"""Fixtures over the lab.

    lab             one lab with a node, keeld and the module, shared by the tests of a session
    stage           one lab with keeld but without a kubelet, for what happens to keeld; shared like `lab`
    control_plane   etcd and an API server with an audit log, no pods
    namespace       a fresh namespace name in the shared lab, emptied afterwards
    untouched       the machine as it was before the test, to which it has to be back afterwards
"""

import itertools
import os
import signal

import pytest

from lab import machine
from lab.kubernetes import ControlPlane
from lab.lab import Lab, end_on_signals
from lab.stage import Stage
from scene import empty

_count = itertools.count(1)


def pytest_configure(config):
    end_on_signals()


def pytest_unconfigure(config):
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure shows the end of the log of every server of its lab."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Lab):
                report.sections.append(("servers", value.tails()))


def pytest_collection_modifyitems(items):
    # The node of `lab` changes the machine until the session ends, so what is compared with the machine comes first.
    items.sort(key=lambda item: "untouched" not in item.fixturenames)
    if os.getuid() != 0:
        for item in items:
            if {"lab", "namespace"} & set(item.fixturenames):
                item.add_marker(pytest.mark.skip(reason="a node needs root"))


@pytest.fixture(scope="session")
def lab():
    """Everything, for tests that leave it as they found it: keeld in mode act, look-ups every second, no pacing."""
    with Lab(nodes=1, keeld={}, audit=True, also=["docker.io", "registry.example:5000"]) as running:
        yield running


@pytest.fixture(scope="session")
def _stage():
    with Stage() as running:
        yield running


@pytest.fixture
def stage(_stage):
    """Everything but a kubelet (lab/stage.py); whatever a test did to it, the next one finds it whole."""
    _stage.all_well()
    yield _stage
    _stage.all_well()


@pytest.fixture
def namespace(lab):
    """An enrolled namespace of this test's own; its workloads are gone afterwards."""
    name = f"test-{next(_count)}"
    lab.kube.namespace(name, labels={"keel.sh/enrolled": "true"})
    yield name
    empty(lab, name)
    lab.kube.delete("namespaces", None, name)


@pytest.fixture
def untouched():
    """The state of the machine (lab.machine.snapshot), which is compared when the test is over; no other lab may run."""
    before = machine.snapshot()
    yield before
    assert machine.differences(before, machine.snapshot()) == []


@pytest.fixture
def control_plane(tmp_path):
    """etcd and an API server that counts requests; no controllers, so no pods. Needs no root."""
    with ControlPlane(tmp_path / "cp", controllers=False, audit=True) as plane:
        yield plane
