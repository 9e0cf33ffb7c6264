"""From a change to a receiver: signed, in batches, newest state, and nothing lost."""

import base64
import concurrent.futures
import json
import os
import signal
import ssl
import subprocess
import threading
import time

import pytest
from cache import OTHER_SECRET, REGISTRY, Receiver, digest_of, push, secret_line

from lab.nginx import build
from lab.ports import free_port
from lab.wait import wait_for


def tag_name(tag, repository="app"):
    return f"{REGISTRY}/{repository}:{tag}"


def companion(nginx, index=0):
    return nginx.api("status")[1]["companions"][index]


def move(nginx, faulty, generation, count=5):
    """Moves `count` tags; what a receiver must know in the end."""
    at = {f"t{i}": digest_of(f"{generation}-{i}") for i in range(count)}
    faulty.tags(**at)
    for tag in at:
        assert nginx.pull("app", tag).status == 200
    return {tag_name(tag): digest for tag, digest in at.items()}


def knows(receiver, expected):
    state = receiver.state()
    return all(state.get(tag, {}).get("digest") == digest for tag, digest in expected.items())


def test_event_has_the_documented_form(cache, upstream, repository, receiver):
    nginx = cache(companion=receiver.url, server="keel_node $http_x_node;")
    one = push(upstream, repository, "8-alpine", "one", "index")
    nginx.pull(repository, "8-alpine", headers={"X-Node": "node-3"})
    receiver.wait(tag_name("8-alpine", repository), one)
    two = push(upstream, repository, "8-alpine", "two", "index")
    nginx.pull(repository, "8-alpine", headers={"X-Node": "node-4"})
    receiver.wait(tag_name("8-alpine", repository), two)
    _, path, headers, _, [event], _ = receiver.attempts[-1]
    state = nginx.tags()[tag_name("8-alpine", repository)]
    state.pop("history")
    epoch = nginx.api("status")[1]["epoch"]
    assert path == "/v1/events"
    assert headers["Content-Type"] == "application/cloudevents-batch+json"
    assert event["data"] == state
    assert event["data"]["change"] == "changed" and event["data"]["previous"] == one and event["data"]["node"] == "node-4"
    assert {key: value for key, value in event.items() if key != "data"} == {
        "specversion": "1.0", "type": "io.ngx-keel.tag", "source": "/caches/cache-t", "id": f"{epoch}-2",
        "time": state["first_seen"], "subject": tag_name("8-alpine", repository), "datacontenttype": "application/json",
    }  # fmt: skip
    assert [given["data"]["change"] for given in receiver.events()] == ["new", "changed"]


def test_same_is_not_published(cache, upstream, repository, receiver):
    nginx = cache(companion=receiver.url)
    push(upstream, repository, "latest", "one")
    for _ in range(5):
        nginx.pull(repository)
    push(upstream, repository, "other", "two")
    nginx.pull(repository, "other")
    wait_for("both tags", lambda: len(receiver.state()) == 2)
    assert len(receiver.events()) == 2


def test_revert_and_cleared_are_published(cache, upstream, repository, receiver):
    nginx = cache(companion=receiver.url)
    tag = tag_name("latest", repository)
    digests = []
    for content, change in (("one", "new"), ("two", "changed"), ("one", "revert"), ("two", "cleared")):
        digests.append(push(upstream, repository, "latest", content))
        nginx.pull(repository)
        wait_for(change, lambda: receiver.state().get(tag, {}).get("change") == change)
    reverted = receiver.events()[2]["data"]
    assert (reverted["digest"], reverted["pending"]) == (digests[1], digests[0])
    assert receiver.events()[3]["data"]["pending"] is None


def test_batches_keep_to_their_limits(cache, faulty, receiver):
    """250 tags with long names that wait for a receiver: at most 100 events and 64 kB each, each tag once."""
    receiver.behaviour = 503
    nginx = cache(faulty.port, companion=receiver.url)
    names = [f"t{i:03}-" + "x" * 100 for i in range(250)]
    faulty.tags(**{tag: digest_of(tag) for tag in names})
    repository = "/".join(["some-long-component"] * 9)
    for tag in names:
        nginx.pull(repository, tag)
    receiver.behaviour = 204
    wait_for("all of them", lambda: len(receiver.state()) == 250, 30)
    taken = [(size, len(events)) for _, _, _, size, events, status in receiver.attempts if status == 204]
    assert all(size <= 65536 and count <= 100 for size, count in taken)
    assert sum(count for _, count in taken) == 250
    assert any(size > 50000 for size, _ in taken)
    wait_for("acknowledged", lambda: companion(nginx)["acked"] == nginx.api("status")[1]["seq"])


def test_waiting_changes_coalesce_and_the_latest_wins(cache, faulty, receiver):
    receiver.behaviour = 503
    nginx = cache(faulty.port, companion=receiver.url)
    for generation in range(20):
        expected = move(nginx, faulty, generation)
    receiver.behaviour = 204
    wait_for("the latest", lambda: knows(receiver, expected), 30)
    assert len(receiver.events()) == 5
    assert companion(nginx)["error"] is None


@pytest.mark.parametrize("fault, told", [(500, "500"), (503, "503"), (401, "secret"), (403, "secret"), (429, "429"), (302, "302"),
                                         (404, "404"), (413, "413")])  # fmt: skip
def test_e3_refused_batches_are_sent_again(cache, faulty, receiver, fault, told):
    receiver.behaviour = fault
    receiver.headers = {"Location": "http://127.0.0.1:1/"} if fault == 302 else {}
    nginx = cache(faulty.port, companion=receiver.url)
    expected = move(nginx, faulty, 1)
    wait_for("a failure", lambda: companion(nginx)["error"] and told in companion(nginx)["error"])
    assert "did not take a batch" in nginx.errors() or fault == 413
    expected |= move(nginx, faulty, 2)
    receiver.behaviour = 204
    wait_for("everything", lambda: knows(receiver, expected), 30)
    wait_for("no error any more", lambda: companion(nginx)["error"] is None)
    assert int(companion(nginx)["failures"]) >= 1


def test_e3_receiver_that_is_down_gets_everything_later(cache, faulty):
    receiver = Receiver()
    receiver.port = free_port()
    nginx = cache(faulty.port, companion=receiver.url)
    expected = move(nginx, faulty, 1)
    wait_for("a refused connection", lambda: companion(nginx)["error"])
    expected |= move(nginx, faulty, 2)
    receiver.start()
    try:
        wait_for("everything", lambda: knows(receiver, expected), 30)
    finally:
        receiver.stop()


def test_e3_receiver_that_is_replaced_after_a_long_time_is_not_stormed(cache, faulty):
    """It gets every tag once, in as few batches as there can be, however often it was tried before."""
    gone, names = Receiver(), [f"t{i}" for i in range(450)]
    gone.port = free_port()
    nginx = cache(faulty.port, companion=gone.url)
    for turn in range(3):
        faulty.tags(**{tag: digest_of(f"{tag} {turn}") for tag in names})
        for tag in names:
            assert nginx.pull("app", tag).status == 200
    wait_for("some failures", lambda: int(nginx.api("status")[1]["companions"][0]["failures"]) >= 3)
    another = Receiver()
    another.port = gone.port
    another.start()
    try:
        wait_for("everything", lambda: knows(another, {f"{REGISTRY}/app:{tag}": digest_of(f"{tag} 2") for tag in names}), 60)
        wait_for("acknowledged", lambda: nginx.api("status")[1]["companions"][0]["acked"] == nginx.api("status")[1]["seq"])
        assert len(another.events()) == len(names)  # the latest of each, once
        assert len(another.attempts) <= 10, [len(batch) for batch in another.batches()]
    finally:
        another.stop()


def test_e3_receiver_that_is_away_is_asked_as_seldom_as_back_off_says(cache, faulty, receiver):
    """Changes all the while, by two workers, hasten nothing; back again it gets the latest of each at once."""
    receiver.behaviour = 503
    nginx = cache(faulty.port, companion=receiver.url)
    names, stop, turns = [f"t{i}" for i in range(150)], threading.Event(), [0]

    def change():
        while not stop.is_set():
            turns[0] += 1
            faulty.tags(**{tag: digest_of(f"{tag} {turns[0]}") for tag in names})
            for tag in names:
                nginx.pull("app", tag)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        changing = pool.submit(change)
        try:
            wait_for("three attempts", lambda: len(receiver.attempts) >= 3, 20)
            begun = receiver.attempts[0][0]
            wait_for("seven seconds", lambda: time.monotonic() >= begun + 7, 20)
        finally:
            stop.set()
            changing.result(20)
    # After 0.5 to 1 s, then 1 to 2, 2 to 4, 4 to 8: within seven seconds four attempts at most.
    times = [attempt[0] - begun for attempt in receiver.attempts]
    assert turns[0] >= 2 and 3 <= sum(at < 7 for at in times) <= 4, times
    receiver.behaviour = 204
    refused = len(receiver.attempts)
    wait_for("everything", lambda: knows(receiver, {tag_name(tag): digest_of(f"{tag} {turns[0]}") for tag in names}), 30)
    assert sum(map(len, receiver.batches())) == len(names)  # the latest of each, once
    assert len(receiver.attempts) - refused <= 4
    assert max(attempt[0] for attempt in receiver.attempts) - receiver.attempts[refused][0] < 2.5  # no pause in between
    assert int(companion(nginx)["failures"]) == refused


def test_e3_receiver_that_hangs_and_comes_back_gets_everything(cache, faulty, receiver):
    """An attempt is given up after ten seconds, without anybody's help."""
    receiver.behaviour = "hang"
    nginx = cache(faulty.port, companion=receiver.url)
    expected = move(nginx, faulty, 1)
    wait_for("a batch in flight", lambda: receiver.attempts)
    expected |= move(nginx, faulty, 2)
    receiver.behaviour = 204
    wait_for("everything", lambda: knows(receiver, expected), 30)
    assert "timed out" in nginx.errors()


def test_back_off_grows_with_jitter(cache, faulty, receiver):
    receiver.behaviour = 500
    nginx = cache(faulty.port, companion=receiver.url)
    move(nginx, faulty, 1)
    wait_for("four attempts", lambda: len(receiver.attempts) >= 4, 30)
    times = [attempt[0] for attempt in receiver.attempts]
    first, second, third = (later - earlier for earlier, later in zip(times, times[1:4]))
    # 0.5 to 1 s, 1 to 2 and 2 to 4; a busy machine may add to that, but never takes away.
    assert 0.45 < first < 2.5 and 0.95 < second < 3.5 and 1.95 < third < 5.5


def test_retry_after_is_honoured(cache, faulty, receiver):
    receiver.behaviour = 429
    receiver.headers = {"Retry-After": "4"}
    nginx = cache(faulty.port, companion=receiver.url)
    move(nginx, faulty, 1)
    wait_for("two attempts", lambda: len(receiver.attempts) >= 2, 30)
    assert receiver.attempts[1][0] - receiver.attempts[0][0] >= 1.9


def test_too_large_halves_the_batch(cache, faulty, receiver):
    """Until it fits; without waiting in between."""
    receiver.behaviour = 503
    nginx = cache(faulty.port, companion=receiver.url)
    expected = move(nginx, faulty, 1, count=40)
    wait_for("a batch of all of them", lambda: any(len(events) == 40 for _, _, _, _, events, _ in receiver.attempts), 30)
    receiver.behaviour = lambda events: 413 if len(events) > 10 else 204
    wait_for("everything", lambda: knows(receiver, expected), 30)
    refused = [(time, len(events)) for time, _, _, _, events, status in receiver.attempts if status == 413]
    assert [size for _, size in refused[:2]] == [40, 20]
    assert max(len(batch) for batch in receiver.batches()) == 10
    # After a 503 the next pauses would be a second and two at least.
    assert max(time for time, *_ in receiver.attempts) - refused[0][0] < 2.5


def test_one_batch_in_flight(cache, faulty, receiver):
    running, most, lock = 0, 0, threading.Lock()

    def slow(events):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.05)
        with lock:
            running -= 1
        return 204

    receiver.behaviour = slow
    nginx = cache(faulty.port, companion=receiver.url)
    for generation in range(5):
        expected = move(nginx, faulty, generation, count=10)
    wait_for("everything", lambda: knows(receiver, expected))
    assert most == 1


def test_every_companion_has_its_own_cursor(cache, faulty, receiver, tmp_path):
    other = Receiver().start()
    other.behaviour = 503
    try:
        nginx = cache(faulty.port, companion=receiver.url, start=False)
        nginx.http = f"keel_companion {other.url} secret={nginx.secret_file};"
        nginx.write()
        nginx.start().wait_ready()
        expected = move(nginx, faulty, 1)
        wait_for("the first", lambda: knows(receiver, expected))
        wait_for("a failure of the second", lambda: companion(nginx, 1)["error"])
        assert companion(nginx, 0)["acked"] == "5" and companion(nginx, 1)["acked"] == "0"
        other.behaviour = 204
        wait_for("the second", lambda: knows(other, expected), 30)
    finally:
        other.stop()


def test_companion_on_a_unix_socket(cache, faulty, tmp_path):
    tmp_path.chmod(0o755)
    receiver = Receiver(unix=tmp_path / "events.sock").start()
    (tmp_path / "events.sock").chmod(0o666)
    try:
        nginx = cache(faulty.port, companion=f"unix:{tmp_path}/events.sock:/hook?a=b")
        expected = move(nginx, faulty, 1)
        wait_for("everything", lambda: knows(receiver, expected))
        assert receiver.attempts[0][1] == "/hook?a=b"
    finally:
        receiver.stop()


def test_companion_by_name(cache, faulty, receiver):
    """Resolved in the helper, whenever it connects; also to an address that refuses before the one that answers."""
    nginx = cache(faulty.port, companion=receiver.url.replace("127.0.0.1", "localhost"))
    expected = move(nginx, faulty, 1)
    wait_for("everything", lambda: knows(receiver, expected))


def test_name_that_does_not_resolve_is_told(cache, faulty):
    nginx = cache(faulty.port, companion="http://keeld.invalid/v1/events")
    move(nginx, faulty, 1)
    wait_for("an error", lambda: "resolve" in (companion(nginx)["error"] or ""))


def test_publisher_that_cannot_be_opened_is_told(cache, faulty, receiver, tmp_path):
    """Pulls and the table go on; log and status say what is wrong."""
    tmp_path.chmod(0o755)
    module = tmp_path / "ngx_keel_module.so"
    module.write_bytes((build() / "ngx_keel_module.so").read_bytes())
    (tmp_path / "ngx_keel_publisher.so").write_text("this is no shared object")
    nginx = cache(faulty.port, companion=receiver.url, module=module)
    move(nginx, faulty, 1)
    wait_for("an error", lambda: "ngx_keel_publisher.so" in (companion(nginx)["error"] or ""))
    assert "keel: nothing is published" in nginx.errors()
    assert len(nginx.tags()) == 5


def test_companion_over_tls_is_verified(cache, faulty, tmp_path):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=keeld", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=tmp_path, check=True, capture_output=True)  # fmt: skip
    receiver = Receiver().start()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    receiver.server.socket = context.wrap_socket(receiver.server.socket, server_side=True)
    try:
        url = receiver.url.replace("http", "https")
        nginx = cache(faulty.port, companion=url)
        expected = move(nginx, faulty, 1)
        wait_for("a refused certificate", lambda: "certificate" in (companion(nginx)["error"] or ""))
        assert not receiver.attempts
        nginx.companion = f"{url} ca={tmp_path}/cert.pem"
        nginx.write()
        nginx.reload()
        wait_for("everything", lambda: knows(receiver, expected))
    finally:
        receiver.stop()


def test_first_secret_signs_and_reload_rotates(cache, faulty, receiver):
    receiver.secret = OTHER_SECRET
    nginx = cache(faulty.port, companion=receiver.url)
    expected = move(nginx, faulty, 1)
    wait_for("a refusal", lambda: "401" in (companion(nginx)["error"] or ""))
    nginx.secret_file.write_text(secret_line(OTHER_SECRET) + secret_line())
    nginx.reload()
    wait_for("everything", lambda: knows(receiver, expected), 30)


def test_message_id_belongs_to_the_content(cache, faulty, receiver):
    receiver.behaviour = 500
    nginx = cache(faulty.port, companion=receiver.url)
    move(nginx, faulty, 1, count=1)
    wait_for("two attempts", lambda: len(receiver.attempts) >= 2, 30)
    move(nginx, faulty, 2, count=1)
    receiver.behaviour = 204
    wait_for("success", receiver.batches, 30)
    ids = {}
    for _, _, headers, _, events, _ in receiver.attempts:
        ids.setdefault(json.dumps(events), set()).add(headers["webhook-id"])
    assert all(len(of_one) == 1 for of_one in ids.values())
    assert len(set.union(*ids.values())) == len(ids) >= 2


def test_change_arrives_at_once(cache, upstream, repository, receiver):
    """Woken by the worker, not found by the scan each second."""
    nginx = cache(companion=receiver.url)
    delays = []
    for content in range(20):
        digest = push(upstream, repository, "latest", content)
        answered = nginx.pull(repository)
        then = time.monotonic()
        assert answered.digest == digest
        receiver.wait(f"{REGISTRY}/{repository}:latest", digest)
        delays.append(receiver.attempts[-1][0] - then)
    delays.sort()
    print(f"from answered pull to receiver: median {delays[10] * 1000:.2f} ms, worst {delays[-1] * 1000:.2f} ms")
    assert delays[10] < 0.1


def test_lost_wake_up_is_found_by_the_scan(cache, faulty, receiver):
    """Nothing depends on the wake-up: what a worker recorded without it is sent within moments."""
    nginx = cache(faulty.port, companion=receiver.url)
    with nginx.stopped_helper() as helper:
        expected = move(nginx, faulty, 1)
        os.kill(helper, signal.SIGKILL)  # the wake-ups that it had not taken go with it or to its successor
    nginx.allowed.append(rf"{helper} exited on signal 9")
    wait_for("everything", lambda: knows(receiver, expected), 5)


def test_secret_file_of_several_lines(cache, faulty, receiver):
    nginx = cache(faulty.port, companion=receiver.url, start=False)
    nginx.secret_file.write_text(secret_line().strip() + "  \n\n" + secret_line(OTHER_SECRET))
    nginx.start().wait_ready()
    expected = move(nginx, faulty, 1)
    wait_for("everything", lambda: knows(receiver, expected))
    assert base64.b64encode(OTHER_SECRET).decode() not in nginx.errors()
