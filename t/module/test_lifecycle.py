"""Start, reload, stop, and processes that die: at once, and nothing lost."""

import http.client
import os
import pathlib
import signal
import socket
import threading
import time

from cache import REGISTRY, Receiver, digest_of

from lab.ports import free_port
from lab.wait import wait_for


def tag_name(tag):
    return f"{REGISTRY}/app:{tag}"


def move(nginx, faulty, generation, count=5):
    at = {f"t{i}": digest_of(f"{generation}-{i}") for i in range(count)}
    faulty.tags(**at)
    for tag in at:
        assert nginx.pull("app", tag).status == 200
    return {tag_name(tag): digest for tag, digest in at.items()}


def knows(receiver, expected):
    state = receiver.state()
    return all(state.get(tag, {}).get("digest") == digest for tag, digest in expected.items())


def hanging(nginx, receiver, faulty):
    """Leaves the helper with a batch that the receiver never answers."""
    receiver.behaviour = "hang"
    expected = move(nginx, faulty, 1)
    wait_for("a batch in flight", lambda: any(status == "hang" for *_, status in receiver.attempts))
    return expected


def test_e3_reload_keeps_the_table(cache, faulty, receiver):
    nginx = cache(faulty.port, companion=receiver.url)
    expected = move(nginx, faulty, 1)
    wait_for("everything", lambda: knows(receiver, expected))
    before = nginx.tags(), nginx.api("status")[1]["epoch"]
    nginx.reload()
    assert (nginx.tags(), nginx.api("status")[1]["epoch"]) == before
    move(nginx, faulty, 1)
    expected = move(nginx, faulty, 2)
    wait_for("what came after the reload", lambda: knows(receiver, expected))
    assert len(receiver.events()) == 10  # what was acknowledged is not sent again


def test_e3_stop_is_instant_while_the_receiver_hangs(cache, faulty, receiver):
    nginx = cache(faulty.port, companion=receiver.url)
    hanging(nginx, receiver, faulty)
    for number in (signal.SIGQUIT, signal.SIGTERM):
        if not nginx.running():
            receiver.attempts.clear()
            nginx.start().wait_ready()
            hanging(nginx, receiver, faulty)
        then = time.monotonic()
        nginx.process.send_signal(number)
        nginx.process.wait(5)
        assert time.monotonic() - then < 3  # the receiver would hold it for ten


def test_e3_reload_is_instant_while_the_receiver_hangs(cache, faulty, receiver):
    nginx = cache(faulty.port, companion=receiver.url)
    expected = hanging(nginx, receiver, faulty)
    receiver.behaviour = 204
    then = time.monotonic()
    nginx.reload()
    assert time.monotonic() - then < 3  # the receiver would hold it for ten
    wait_for("everything", lambda: knows(receiver, expected))


def test_e3_pulls_are_not_delayed_while_the_receiver_hangs(cache, faulty, receiver):
    """Measured against the same pulls before, since the machine may be slow by itself."""
    nginx = cache(faulty.port, companion=receiver.url)

    def fifty_pulls(generation):
        then = time.monotonic()
        for i in range(10):
            move(nginx, faulty, generation + i)
        return time.monotonic() - then

    before = fifty_pulls(100)
    hanging(nginx, receiver, faulty)
    assert fifty_pulls(200) < 2 + 5 * before  # a pull that waited once for the receiver would take 10 s


def test_e3_killed_helper_loses_nothing(cache, faulty, receiver):
    nginx = cache(faulty.port, companion=receiver.url)
    nginx.allowed.append(r"cache manager process \d+ exited on signal 9")
    for generation in range(5):
        helper = nginx.helper()
        expected = move(nginx, faulty, generation)
        os.kill(helper, signal.SIGKILL)
        wait_for("everything", lambda: knows(receiver, expected))
        wait_for("another helper", lambda: nginx.helper() != helper)


def test_e3_killed_helper_with_a_batch_in_flight_sends_it_again(cache, faulty, receiver):
    nginx = cache(faulty.port, companion=receiver.url)
    nginx.allowed.append(r"cache manager process \d+ exited on signal 9")
    expected = hanging(nginx, receiver, faulty)
    receiver.behaviour = 204
    os.kill(nginx.helper(), signal.SIGKILL)
    wait_for("everything", lambda: knows(receiver, expected))


def test_e3_killed_worker_keeps_the_table(cache, faulty, receiver):
    nginx = cache(faulty.port, companion=receiver.url)
    nginx.allowed.append(r"worker process \d+ exited on signal 9")
    expected = move(nginx, faulty, 1)
    epoch = nginx.api("status")[1]["epoch"]
    workers = nginx.workers_now()
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    wait_for("new workers", lambda: len(nginx.workers_now()) == 2 and not set(workers) & set(nginx.workers_now()))
    assert {tag: state["digest"] for tag, state in nginx.tags().items()} == expected
    assert nginx.api("status")[1]["epoch"] == epoch
    expected = move(nginx, faulty, 2)
    wait_for("everything", lambda: knows(receiver, expected))


def test_e3_workers_killed_under_traffic(cache, faulty, receiver):
    """Whatever they were doing: the table is whole or starts again, and the receiver has the newest state in the end."""
    nginx = cache(faulty.port, companion=receiver.url, workers=3)
    nginx.allowed.append(r"worker process \d+ exited on signal 9")
    names = [f"t{i}" for i in range(40)]
    stop = threading.Event()

    def pull():
        while not stop.is_set():
            for tag in names:
                try:
                    nginx.pull("app", tag)
                except (OSError, http.client.HTTPException):
                    continue  # its worker was killed

    faulty.tags(**{tag: digest_of(tag) for tag in names})
    threads = [threading.Thread(target=pull) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for generation in range(30):
            faulty.tags(**{tag: digest_of(f"{tag}-{generation}") for tag in names})
            victim = wait_for("workers", lambda: len(nginx.workers_now()) == 3 and nginx.workers_now())[generation % 3]
            os.kill(victim, signal.SIGKILL)
            wait_for("its end", lambda: victim not in nginx.workers_now())
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    expected = {tag_name(tag): digest_of(f"{tag}-last") for tag in names}
    faulty.tags(**{tag: digest_of(f"{tag}-last") for tag in names})
    for tag in names:
        assert nginx.pull("app", tag).status == 200
    assert {tag: state["digest"] for tag, state in nginx.tags().items()} == expected
    wait_for("everything", lambda: knows(receiver, expected))


def test_companion_that_is_added_gets_the_whole_table(cache, faulty, receiver):
    other = Receiver().start()
    try:
        nginx = cache(faulty.port, companion=receiver.url)
        expected = move(nginx, faulty, 1, count=150)
        wait_for("the first", lambda: knows(receiver, expected))
        nginx.companion = other.url
        nginx.write()
        nginx.reload()
        wait_for("the second", lambda: knows(other, expected))
        assert [companion["url"] for companion in nginx.api("status")[1]["companions"]] == [other.url]
    finally:
        other.stop()


def test_module_that_is_switched_off_on_reload(cache, faulty, receiver):
    nginx = cache(faulty.port, companion=receiver.url)
    move(nginx, faulty, 1)
    nginx.zone, nginx.companion, nginx.observe = "", None, ""
    text = nginx.config.read_text
    nginx.write()
    nginx.config.write_text(text().replace("keel_api;", "return 404;"))
    nginx.reload()
    move(nginx, faulty, 2)
    assert "cache manager" not in " ".join(nginx.children().values())
    nginx.zone, nginx.companion, nginx.observe = "keel:1m", receiver.url, f"keel on; keel_registry {REGISTRY};"
    nginx.write()
    nginx.reload()
    expected = move(nginx, faulty, 3)
    wait_for("everything", lambda: knows(receiver, expected))


def descriptors(nginx):
    return {pid: len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir())) for pid in (nginx.pid, *nginx.children())}


def test_reloads_leave_nothing_behind(cache, faulty, receiver):
    nginx = cache(faulty.port, companion=receiver.url)
    nginx.reload()  # the second configuration closes what the first had opened
    wait_for("two workers and the helper", lambda: len(nginx.children()) == 3)
    before = max(descriptors(nginx).values())
    for generation in range(20):
        nginx.reload()
        expected = move(nginx, faulty, generation)
        wait_for("everything", lambda: knows(receiver, expected))
    wait_for("processes as before", lambda: len(nginx.children()) == 3)
    assert max(descriptors(nginx).values()) <= before + 2  # a connection to the receiver, one to the upstream
    assert max(descriptors(nginx).values()) < 40


def test_libcurl_is_in_the_helper_only(cache, faulty, receiver):
    nginx = cache(faulty.port, companion=receiver.url)
    expected = move(nginx, faulty, 1)
    wait_for("everything", lambda: knows(receiver, expected))
    helper = nginx.helper()
    for pid in (nginx.pid, *nginx.children()):
        mapped = "libcurl.so" in pathlib.Path(f"/proc/{pid}/maps").read_text()
        assert mapped == (pid == helper)


def test_single_process_publishes_nothing_and_says_so(cache, faulty, receiver):
    nginx = cache(faulty.port, companion=receiver.url, main="master_process off;", start=False)
    nginx.stop_signal = signal.SIGTERM
    nginx.start().wait_ready()
    move(nginx, faulty, 1)
    assert "nothing is published with \"master_process off\"" in nginx.errors()
    assert len(nginx.tags()) == 5
    assert receiver.attempts == []


def test_next_to_a_proxy_cache(cache, faulty, receiver, tmp_path):
    """nginx's own cache manager and loader share the process, or are there beside it."""
    http = f"proxy_cache_path {tmp_path}/blobs keys_zone=blobs:1m max_size=1m inactive=1s manager_sleep=50ms;"
    nginx = cache(faulty.port, companion=receiver.url, http=http)
    for generation in range(3):
        expected = move(nginx, faulty, generation)
        wait_for("everything", lambda: knows(receiver, expected))
    assert list(nginx.children().values()).count("nginx: cache manager process") == 1


def test_receiver_that_closes_idle_connections(cache, faulty, receiver):
    nginx = cache(faulty.port, companion=receiver.url)
    for generation in range(3):
        expected = move(nginx, faulty, generation)
        wait_for("everything", lambda: knows(receiver, expected))
        port = receiver.port
        receiver.stop()
        receiver.port = port
        receiver.start()
    assert nginx.api("status")[1]["companions"][0]["error"] is None


def test_receiver_that_accepts_and_says_nothing(cache, faulty):
    """A listener that nobody serves: the kernel accepts, nothing answers. Pulls, reload and stop do not care."""
    port = free_port()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(1)
        nginx = cache(faulty.port, companion=f"http://127.0.0.1:{port}/v1/events")
        move(nginx, faulty, 1)
        wait_for("a connection", lambda: listener.accept())
        then = time.monotonic()
        nginx.reload()
        nginx.stop()
        assert time.monotonic() - then < 3
