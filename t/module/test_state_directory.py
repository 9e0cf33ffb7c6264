"""One nginx, one state directory: a second one does not start, and every way in which the same nginx goes on does."""

import os
import re
import signal
import subprocess
import sys

import pytest
from cache import SECRET, digest_of, secret_line
from test_faults import Daemon, alive
from test_holds import NOW, TAG, ask, manifests

from lab.process import program
from lab.wait import wait_for

IN_USE = "is in use by another nginx: stop that one, or give each a state=DIR of its own"


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "keeld.secret"
    path.write_text(secret_line(SECRET))
    path.chmod(0o600)
    return f"secret=keeld:{path}"


def started(nginx, *more):
    """(status, what it said) of an nginx that is to end by itself."""
    done = subprocess.run([*map(str, nginx.command()), *more], capture_output=True, text=True, timeout=20)
    return done.returncode, done.stderr


def refused(nginx):
    """Whether it does not start, and says which directory, where, and what to do."""
    status, said = started(nginx)
    nginx.allowed.append(re.escape(IN_USE))
    return status == 1 and re.search(rf'\[emerg\].*"keel_zone" in {nginx.config}:\d+: the state directory "{nginx.state}" {IN_USE}', said)


def test_e3_second_nginx_does_not_start_in_the_same_directory(cache, faulty):
    """The first one does not notice; -t, reloads and signals are its own; when it is gone the second one starts."""
    first = cache(faulty.port)
    second = cache(faulty.port, state=first.state, start=False)
    assert refused(second)
    for one in (first, second):
        status, said = started(one, "-t")
        assert status == 0 and "test is successful" in said and IN_USE not in said
    first.reload()
    assert refused(second)
    assert started(first, "-s", "reload")[0] == 0
    assert first.ready() and not second.running()
    first.stop()
    second.start().wait_ready()
    assert IN_USE not in first.errors()


def test_e3_directory_is_free_when_its_master_was_killed(cache, faulty):
    """Workers that go on without a master keep nobody from starting."""
    first = cache(faulty.port)
    second = cache(faulty.port, state=first.state, start=False)
    orphans = first.children()
    first.kill()
    try:
        assert any(map(alive, orphans))
        second.start().wait_ready()
    finally:
        for pid in filter(alive, orphans):
            os.kill(pid, signal.SIGTERM)
        wait_for("the end of the orphans", lambda: not any(map(alive, orphans)))
    first.allowed.append("a process died")


def test_e3_reload_into_a_directory_in_use_changes_nothing(cache, faulty):
    """The configuration before stays, and so does its directory; another directory frees the old one."""
    first, second = cache(faulty.port), cache(faulty.port)
    own, second.state = second.state, first.state
    second.write()
    second.allowed.append(re.escape(IN_USE))
    before = wait_for("all its processes", lambda: second.helper() and len(second.workers_now()) == 2 and set(second.children()))
    second.process.send_signal(signal.SIGHUP)
    wait_for("the refusal", lambda: IN_USE in second.errors())
    assert second.ready() and set(second.children()) == before
    third = cache(faulty.port, state=own, start=False)
    assert refused(third)
    second.state = second.folder / "another"
    second.write()
    second.reload()
    third.start().wait_ready()
    assert refused(cache(faulty.port, state=second.state, start=False))


def test_e3_directory_that_cannot_be_locked_keeps_nobody_from_starting(cache, faulty):
    """What is not known is told, and pulls go on."""
    nginx = cache(faulty.port, start=False)
    nginx.state.mkdir()
    (nginx.state / "nginx.lock").symlink_to("elsewhere")
    nginx.start().wait_ready()
    assert f'cannot lock "{nginx.state}/nginx.lock", so another nginx that uses this directory would go unnoticed' in nginx.errors()


# --- binary upgrades ---


class Upgraded(Daemon):
    """Started by a name that another binary can be put at."""

    @property
    def binary(self):
        return self.folder / "nginx-binary"

    def command(self):
        if not self.binary.exists():
            self.binary.symlink_to(program("nginx"))
        return [self.binary, *super().command()[1:]]

    def lose(self, *patterns):
        """The next binary gets none of the descriptors whose names match."""
        if "KEEL_SANITIZED" in os.environ:
            pytest.skip("the sanitizers' nginx is started by a script, and starts the next one by its own name")
        self.binary.unlink()
        self.binary.write_text(f"""#!{sys.executable}
import os, re, sys
for number in os.listdir("/proc/self/fd"):
    try:
        name = os.readlink("/proc/self/fd/" + number)
    except OSError:
        continue
    if any(re.search(pattern, name) for pattern in {patterns!r}):
        os.close(int(number))
os.execv({str(program("nginx"))!r}, [{str(self.binary)!r}, *sys.argv[1:]])
""")
        self.binary.chmod(0o755)


@pytest.fixture
def daemon(tmp_path, faulty, secret):
    manifests(faulty, latest=NOW)
    nginx = Upgraded(tmp_path / "nginx", faulty.port, api=secret)
    nginx.start().wait_ready()
    yield nginx
    nginx.stop()
    assert not nginx.complaints()


def answers(nginx, count=30):
    """The digests of so many answers, by whichever generation."""
    return {ask(nginx)[1]["Docker-Content-Digest"] for _ in range(count)}


def test_e3_binary_upgrade_shares_its_directory(daemon, cache, faulty):
    """Both generations have it, and so has the one that is left, whichever that is, over reloads, too."""
    other = cache(faulty.port, state=daemon.state, start=False)
    old, new = daemon.upgrade()
    assert refused(other)
    os.kill(new, signal.SIGQUIT)
    wait_for("the new one's end", lambda: not alive(new) and daemon.pid == old)
    assert refused(other)
    old, new = daemon.upgrade()
    os.kill(old, signal.SIGQUIT)
    wait_for("the old one's end", lambda: not alive(old))
    assert refused(other)
    before = set(daemon.children_of(new))
    os.kill(new, signal.SIGHUP)
    wait_for("reload", lambda: daemon.children_of(new) and not before & set(daemon.children_of(new)))
    assert refused(other)
    daemon.stop()
    other.start().wait_ready()


def test_e3_binary_upgrade_without_the_memory_of_holds(daemon):
    """The new generation cannot have the old one's: both follow the file, so what one of them writes the other knows soon."""
    daemon.hold(TAG, digest_of("before"))
    daemon.lose("keel-holds")
    old, new = daemon.upgrade()
    assert answers(daemon) == {digest_of("before")}
    epochs = set()
    wait_for("both answer", lambda: epochs.add(daemon.api("status")[1]["epoch"]) or len(epochs) == 2)
    for i in range(2):
        digest = digest_of(f"both {i}")
        daemon.hold(TAG, digest)
        wait_for("both know it", lambda digest=digest: answers(daemon) == {digest}, 5)
    daemon.release(TAG)
    wait_for("both have lifted it", lambda: answers(daemon) == {NOW}, 5)
    daemon.hold(TAG, digest_of("last"))
    os.kill(old, signal.SIGQUIT)
    wait_for("the old one's end", lambda: not alive(old))
    wait_for("the new one knows it", lambda: answers(daemon) == {digest_of("last")}, 5)


def test_e3_binary_that_cannot_have_the_directory_does_not_start(daemon):
    """A binary that gets no descriptors at all is another nginx: the old one goes on."""
    old = daemon.pid
    daemon.lose("nginx.lock")
    daemon.allowed.append(re.escape(IN_USE))
    os.kill(old, signal.SIGUSR2)
    wait_for("the refusal", lambda: IN_USE in daemon.errors())
    wait_for("its pid file again", lambda: daemon.pid == old)
    assert daemon.ready()
    daemon.hold(TAG, digest_of("held"))
    assert answers(daemon) == {digest_of("held")}
