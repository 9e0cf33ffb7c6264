"""Fixtures of the module's tests: real nginx, real registries, a real receiver.

    upstream    docker-registry that takes pushes; shared by the session, so each test has its own repository
    through     docker-registry pulling through to it
    repository  a repository name of this test's own
    cache       makes a Cache (see cache.py), started; its log must hold no [alert], [emerg] or [crit] when the test ends
    receiver    takes events and checks their signatures
    faulty      an upstream that answers what it is told to
    disk        a small file system to fill or to make read-only
"""

import itertools
import os
import re

import pytest
from cache import Cache, Receiver, Upstream

from lab.process import run
from lab.registry import Registry

_count = itertools.count(1)


# What every supported nginx has to pass (t/versions); not what tells nginx's processes by their titles, because those of an nginx
# that another loader starts have none.
SMOKE = {"test_api.py", "test_api_writes.py", "test_holds.py", "test_observation.py", "test_shipped.py", "test_transparency.py", "test_verify.py"}
PROCESSES = re.compile("helper|worker_killed|are_killed|need_neither|not_promise|upgrade|bad_file|cannot_be_read")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.name in SMOKE and not PROCESSES.search(item.name):
            item.add_marker(pytest.mark.smoke)


@pytest.fixture(scope="session")
def upstream(tmp_path_factory):
    with Registry(tmp_path_factory.mktemp("upstream"), "upstream") as registry:
        yield registry


@pytest.fixture(scope="session")
def through(tmp_path_factory, upstream):
    with Registry(tmp_path_factory.mktemp("through"), "through", proxy_of=upstream.url) as registry:
        yield registry


@pytest.fixture
def repository():
    return f"test/app-{next(_count)}"


@pytest.fixture
def receiver():
    server = Receiver().start()
    yield server
    server.stop()


@pytest.fixture
def faulty():
    server = Upstream()
    yield server
    server.stop()


@pytest.fixture
def cache(tmp_path, upstream, request):
    made = []

    def make(upstream_port=None, start=True, **options):
        server = Cache(tmp_path / f"nginx-{len(made)}", upstream_port or upstream.port, **options)
        made.append(server)
        return server.start().wait_ready() if start else server

    yield make
    for server in made:
        server.stop()
    for server in made:
        assert not server.complaints()
        assert "a process died" in server.allowed or "keel: a process died" not in server.errors()


@pytest.fixture
def disk(tmp_path):
    """A file system of 256 kB."""
    if os.getuid() != 0:
        pytest.skip("mounting a small disk needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=256k,mode=755", "keel-test", folder)
    yield folder
    run("umount", "-l", folder)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure shows the end of nginx's log."""
    outcome = yield
    report = outcome.get_result()
    make = getattr(item, "funcargs", {}).get("cache")
    if report.failed and make:
        for server in make.__closure__[0].cell_contents if make.__closure__ else []:
            if isinstance(server, Cache):
                report.sections.append(("nginx", server.tail()))
