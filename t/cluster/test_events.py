"""POST /v1/events: what is not right is refused, counted and harmless; what is answered 2xx is on disk.

Most of it on a keeld without a cluster, which needs nothing but its files.
"""

import base64
import contextlib
import hashlib
import hmac
import http.client
import json
import random
import re
import signal
import sqlite3
import threading
import time

import pytest

from lab.keeld import Keeld, new_secret
from lab.wait import wait_for

EPOCH = "0123456789abcdef0123456789abcdef"
JSON = "application/cloudevents-batch+json"
START = 1_790_000_000  # of the times in events


def key_of(line):
    return base64.b64decode(line.strip().removeprefix("whsec_"))


def signature(key, name, stamp, body):
    mac = hmac.new(key, f"{name}.{stamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(mac).decode()


def moment(number):
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(START + number))


def digest(number):
    return "sha256:" + hashlib.sha256(str(number).encode()).hexdigest()


def event(number, name="latest", seq=None, cache="cache-a", epoch=EPOCH, **data):
    """The tag moved to the digest of `number`."""
    tag = f"registry.example/team/app:{name}"
    seq = str(number if seq is None else seq)
    return {
        "specversion": "1.0", "type": "io.ngx-keel.tag", "source": f"/caches/{cache}", "id": f"{epoch}-{seq}",
        "time": moment(number), "subject": tag, "datacontenttype": "application/json",
        "data": {
            "tag": tag, "registry": "registry.example", "repository": "team/app", "name": name,
            "digest": digest(number), "kind": "image", "change": "changed", "previous": None, "pending": None,
            "epoch": epoch, "seq": seq, "first_seen": moment(number), "last_seen": moment(number),
            "asked_by": "kubelet", "node": "node-1", **data,
        },
    }  # fmt: skip


class Sender:
    """Posts to one keeld, by default as a cache with the right secret does. Answers: (status, headers, JSON or None)."""

    def __init__(self, keeld, secret=None):
        self.port = keeld.events_port
        self.key = key_of((secret or keeld.secret).read_text().splitlines()[0])
        self.count = 0

    def post(self, events, key=None, stamp=None, drop=(), change=None, headers=None):
        """events: a list, or the bytes of a body. change: another body, sent with the signature of the first."""
        body = events if isinstance(events, bytes) else json.dumps(events).encode()
        self.count += 1
        name, stamp = f"msg-{self.count}", str(int(time.time()) if stamp is None else stamp)
        sent = {"Content-Type": JSON, "webhook-id": name, "webhook-timestamp": stamp,
                "webhook-signature": signature(key or self.key, name, stamp, body), **(headers or {})}  # fmt: skip
        for one in drop:
            del sent[one]
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("POST", "/v1/events", body if change is None else change, sent)
            answer = connection.getresponse()
            data = answer.read()
            return answer.status, answer.headers, json.loads(data) if data else None
        finally:
            connection.close()


def metric(keeld, name):
    text = keeld.get("/metrics")
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)
    assert found, f"no {name} in\n{text}"
    return float(found.group(1))


def refused(keeld, reason):
    return metric(keeld, f'keeld_event_requests_refused_total{{reason="{reason}"}}')


def known(keeld):
    """{tag: digest} as keeld has it."""
    return {item["tag"].rsplit(":", 1)[1]: item["digest"] for item in keeld.get("/v1/tags?limit=1000")["items"]}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A watcher: it hears of tags, and there is no cluster."""
    folder = tmp_path_factory.mktemp("watcher")
    caches = [{"name": name, "api": "http://127.0.0.1:9/keel", "lookup": "http://127.0.0.1:9"} for name in ("cache-a", "cache-b")]
    keeld = Keeld(folder / "keeld", {"mode": "observe", "caches": caches})
    keeld.start().wait_ready()
    yield keeld
    keeld.stop()


@pytest.fixture
def keeld(shared):
    if not shared.running():
        shared.start().wait_ready()
    return shared


@pytest.fixture
def sender(keeld):
    return Sender(keeld)


def names():
    """A tag's name of its own for each test."""
    return f"t{random.randrange(1 << 48)}"


# Who may

WRONG = {
    "another secret": ({"key": b"x" * 32}, "bad-signature", "compare the secret files"),
    "another body": ({"change": b"[]"}, "bad-signature", "compare the secret files"),
    "no signature": ({"drop": ["webhook-signature"]}, "unsigned", "webhook-signature"),
    "no id": ({"drop": ["webhook-id"]}, "unsigned", "webhook-id"),
    "no time": ({"drop": ["webhook-timestamp"]}, "unsigned", "webhook-timestamp"),
    "no signature header at all": ({"drop": ["webhook-id", "webhook-timestamp", "webhook-signature"]}, "unsigned", "not signed"),
    "a signature of another version": ({"headers": {"webhook-signature": "v2,abcd"}}, "bad-signature", "none of the"),
    "a time that is none": ({"stamp": "yesterday"}, "bad-signature", "seconds since 1970"),
}  # fmt: skip


@pytest.mark.parametrize("how, code, said", WRONG.values(), ids=WRONG)
def test_a_request_that_is_not_signed_right_is_refused_and_counted(keeld, sender, how, code, said):
    name, before = names(), refused(keeld, "signature")
    status, headers, body = sender.post([event(1, name)], **how)
    assert status == 401 and body["error"]["code"] == code and said in body["error"]["text"], body
    assert headers["Date"]
    assert refused(keeld, "signature") == before + 1
    assert name not in known(keeld)


@pytest.mark.parametrize("seconds", [-301, -86400, 301], ids=["old", "a day old", "of the future"])
def test_a_request_from_another_time_is_refused_with_the_time_here(keeld, sender, seconds):
    name, before = names(), refused(keeld, "clock-skew")
    status, headers, body = sender.post([event(1, name)], stamp=int(time.time()) + seconds + (3 if seconds > 0 else 0))
    assert status == 401 and body["error"]["code"] == "clock-skew" and "check both clocks" in body["error"]["text"]
    assert abs(time.mktime(time.strptime(headers["Date"], "%a, %d %b %Y %H:%M:%S GMT")) - time.timezone - time.time()) < 30
    assert refused(keeld, "clock-skew") == before + 1
    assert name not in known(keeld)
    assert sender.post([event(1, name)], stamp=int(time.time()) - 200)[0] == 204
    assert name in known(keeld)


def test_secrets_rotate_without_a_refusal(keeld, sender, tmp_path):
    """New line first at keeld, then at the cache, then the old line goes; a signature of each while both hold."""
    old, fresh = keeld.secret.read_text(), new_secret(tmp_path / "fresh").read_text()
    name = names()

    def reload(text):
        taken = keeld.log.read_text().count(": taken (")
        keeld.secret.write_text(text)
        keeld.process.send_signal(signal.SIGHUP)
        wait_for("taken", lambda: keeld.log.read_text().count(": taken (") == taken + 1)

    assert sender.post([event(1, name)], key=key_of(fresh))[0] == 401
    reload(fresh + old)
    assert sender.post([event(1, name)], key=key_of(old))[0] == 204
    assert sender.post([event(2, name)], key=key_of(fresh))[0] == 204
    both = json.dumps([event(3, name)]).encode()
    stamp = str(int(time.time()))
    signatures = " ".join(signature(key, "both", stamp, both) for key in (b"?" * 32, key_of(old)))
    assert sender.post(both, stamp=stamp, headers={"webhook-id": "both", "webhook-signature": signatures})[0] == 204
    reload(fresh)
    assert sender.post([event(4, name)], key=key_of(old))[0] == 401
    assert sender.post([event(4, name)], key=key_of(fresh))[0] == 204
    assert known(keeld)[name] == digest(4)
    reload(old)


# What is in it

def without(field, of="data"):
    one = event(2)
    (one["data"] if of == "data" else one).pop(field)
    return one


def other(field, value, of="data"):
    one = event(2)
    (one["data"] if of == "data" else one)[field] = value
    return one


BAD = {
    "a number for a text": (other("name", 7), "event 1: data.name: expected a string"),
    "a text for an object": (other("data", "x", "event"), "event 1: data: expected a JSON object"),
    "a number for a counter": (other("seq", 7), "event 1: data.seq: expected"),
    "no counter": (without("seq"), "event 1: data.seq: expected"),
    "too large a counter": (other("seq", "18446744073709551616"), "event 1: data.seq: expected"),
    "no digest": (without("digest"), "event 1: data.digest: expected"),
    "a digest that is none": (other("digest", "sha256:12"), "event 1: data.digest: expected"),
    "a time that is none": (other("last_seen", "now"), "event 1: data.last_seen: expected"),
    "a name against the grammar": (other("repository", "../etc"), "event 1: data.repository: expected"),
    "another tag than it says": (other("tag", "registry.example/team/app:2"), "event 1: data.tag: expected"),
    "another subject": (other("subject", "registry.example/team/app:2", "event"), "event 1: subject: expected"),
    "an unknown change": (other("change", "moved"), "event 1: data.change: expected"),
    "a later CloudEvents": (other("specversion", "2.0", "event"), "event 1: specversion: expected"),
    "no source": (without("source", "event"), "event 1: source: expected"),
    "a source that is no cache": (other("source", "/other", "event"), "event 1: source: expected"),
    "no event": ("x", "event 1: expected a JSON object"),
}  # fmt: skip


@pytest.mark.parametrize("bad, said", BAD.values(), ids=BAD)
def test_a_bad_event_names_its_field_and_nothing_of_its_batch_is_taken(keeld, sender, bad, said):
    name, before = names(), refused(keeld, "malformed")
    status, _, body = sender.post([event(1, name), bad])
    assert status == 400 and body["error"]["text"].startswith(said), body
    assert refused(keeld, "malformed") == before + 1
    assert name not in known(keeld)


NO_BATCH = {
    "nothing": (b"", "line 1"),
    "no JSON": (b"{", "line 1"),
    "half of it": (json.dumps([event(1)]).encode()[:-20], "line 1"),
    "not UTF-8": (b'["\xff\xfe"]', "line 1"),
    "a key twice": (b'[{"type": "a", "type": "b"}]', "line 1"),
    "one event without its list": (json.dumps(event(1)).encode(), "expected a JSON array"),
    "very deep": (b"[" * 5000, "line 1"),
}  # fmt: skip


@pytest.mark.parametrize("data, said", NO_BATCH.values(), ids=NO_BATCH)
def test_a_body_that_is_no_batch(keeld, sender, data, said):
    before = refused(keeld, "malformed")
    status, _, body = sender.post(data)
    assert status == 400 and said in body["error"]["text"], body
    assert refused(keeld, "malformed") == before + 1


def test_what_is_too_much(keeld, sender):
    """A cache halves its batch on 413."""
    name = names()
    status, _, body = sender.post([{**event(1), "type": "io.ngx-keel.later", "data": {}}] * 101)
    assert status == 413 and "101 events, where 100 are allowed" in body["error"]["text"]
    many = [event(number, f"{name}-{number}") for number in range(95)]
    wide = json.dumps(many).encode()
    status, _, body = sender.post(wide)
    assert status == 413 and f"{len(wide)} bytes, where 65536 are allowed" in body["error"]["text"]
    status, _, body = sender.post(b"[" + b" " * (1 << 20) + b"]")
    assert status == 413
    assert not [one for one in known(keeld) if one.startswith(name)]
    for half in (many[:50], many[50:]):
        assert sender.post(half)[0] == 204
    assert len([one for one in known(keeld) if one.startswith(name)]) == 95


def test_unknown_caches_and_types_are_passed_over(keeld, sender):
    name, before = names(), metric(keeld, "keeld_events_unknown_cache_total")
    hold = {**event(1, name), "type": "io.ngx-keel.later", "data": {"tag": "x", "event": "set"}}
    assert sender.post([event(1, name, cache="cache-z"), hold, event(2, name + "b", more={"of": "it"})])[0] == 204
    assert metric(keeld, "keeld_events_unknown_cache_total") == before + 1
    assert name not in known(keeld) and known(keeld)[name + "b"] == digest(2)
    assert sender.post([])[0] == 204


def test_other_methods_and_paths(keeld):
    connection = http.client.HTTPConnection("127.0.0.1", keeld.events_port, timeout=30)
    with contextlib.closing(connection):
        for method, path, status in (("GET", "/v1/events", 405), ("PUT", "/v1/events", 405), ("GET", "/v1/tags", 404),
                                     ("GET", "/metrics", 404), ("POST", "/v1/event", 405)):  # fmt: skip
            connection.request(method, path)
            answer = connection.getresponse()
            text = json.loads(answer.read())["error"]["text"]
            assert answer.status == status and text, (method, path)


# In any order, as often as one likes

def test_d7_repeated_and_reordered_events_give_the_same_end(keeld, sender):
    name = names()
    assert sender.post([event(1, name)])[0] == 204
    batches = [[event(number, name)] for number in range(2, 12)]
    chance = random.Random(7)
    for place, batch in enumerate(batches):
        for old in [batch, *chance.choices(batches[: place + 1], k=3)]:
            assert sender.post(old)[0] == 204
        assert known(keeld)[name] == batch[0]["data"]["digest"]
    seen = keeld.get("/v1/ledger?kind=observed&limit=1000")["items"]
    own = [item for item in seen if item["tag"].endswith(f":{name}")]
    assert [item["to"] for item in reversed(own)] == [digest(number) for number in range(1, 12)]
    assert metric(keeld, 'keeld_events_stale_total{cache="cache-a"}') > 0


def test_many_at_once(keeld, sender):
    """Connections side by side; each batch is answered, and the newest state wins."""
    name, answers = names(), []
    assert sender.post([event(1, f"{name}-{lane}", seq=1000 + lane) for lane in range(8)])[0] == 204

    def send(lane):
        own = Sender(keeld)
        own.count = lane * 1_000_000
        for number in range(2, 27):
            answers.append(own.post([event(number, f"{name}-{lane}", seq=2000 + number)])[0])

    threads = [threading.Thread(target=send, args=(lane,)) for lane in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert answers == [204] * 200
    assert {known(keeld)[f"{name}-{lane}"] for lane in range(8)} == {digest(26)}


def test_p7_d7_what_was_answered_2xx_survives_a_kill(keeld, sender):
    name = names()
    for number in range(1, 13):
        one = f"{name}-{number}"
        assert sender.post([event(number, one, seq=5000 + number)])[0] == 204
        keeld.kill()
        with contextlib.closing(sqlite3.connect(f"file:{keeld.ledger}?mode=ro", uri=True)) as ledger:
            found = ledger.execute("SELECT current FROM tags WHERE tag LIKE ?", [f"%:{one}"]).fetchall()
            entries = ledger.execute("SELECT kind FROM entries WHERE tag LIKE ? ORDER BY kind", [f"%:{one}"]).fetchall()
        assert found == [(digest(number),)] and entries == [("observed",), ("received",)]
        keeld.start().wait_ready()
    assert {known(keeld)[f"{name}-{number}"] for number in range(1, 13)} == {digest(number) for number in range(1, 13)}


# With a cluster behind it

def test_p7_no_second_rollout_by_repeated_or_reordered_events(stage):
    """The cache's own events again, in another order, while and after they are acted upon."""
    namespace, repository = "events", "events/app"
    stage.deploy(namespace, "app", repository)
    sender = Sender(stage.keeld, stage.folder / "events.secret")
    states = []

    def state():
        return next(item for item in stage.nginx.tags() if item["repository"] == repository)

    def as_event(item):
        data = {key: value for key, value in item.items() if key != "history"}
        return {**event(1), "id": f"{data['epoch']}-{data['seq']}", "subject": data["tag"], "time": data["last_seen"], "data": data}

    states.append(state())
    for _ in range(3):
        target = stage.move(repository)
        stage.pull(repository)
        wait_for("seen by nginx", lambda: state()["digest"] == target)
        states.append(state())
        stale = metric(stage.keeld, 'keeld_events_stale_total{cache="cache-a"}')
        while not stage.kube.list("replicasets", namespace) or target not in stage.told.digests():
            for item in reversed(states):
                assert sender.post([as_event(item)])[0] == 204
        stage.wait_current(namespace, "app", target)
        for item in [*states, *reversed(states)]:
            assert sender.post([as_event(item)] * 3)[0] == 204
        assert metric(stage.keeld, 'keeld_events_stale_total{cache="cache-a"}') > stale
    stage.wait_current(namespace, "app", target)
    done = stage.exactly_once(namespace, "app")
    assert list(done) == [item["digest"] for item in states[1:]]
