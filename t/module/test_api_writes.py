"""keel_api, the writing half: who may, what is refused, and that nothing is half done."""

import concurrent.futures
import datetime
import http.client
import json
import os
import pathlib
import pwd
import re
import signal
import socket
import tempfile
import time

import pytest
from cache import OTHER_SECRET, REGISTRY, SECRET, digest_of, push, secret_line, sign

from lab.process import run
from lab.wait import wait_for

ROOT = pathlib.Path(__file__).resolve().parents[2]
TAG = f"{REGISTRY}/app:latest"
A, B = digest_of("a"), digest_of("b")


def utc(seconds=0.0):
    moment = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


@pytest.fixture
def secrets(tmp_path):
    """The parameters of keel_api for two authors."""
    found = ""
    for name, key in (("keeld", SECRET), ("other", OTHER_SECRET)):
        path = tmp_path / f"{name}.secret"
        path.write_text(secret_line(key))
        path.chmod(0o600)
        found += f" secret={name}:{path}"
    return found


@pytest.fixture
def socket_path():
    with tempfile.TemporaryDirectory(prefix="keel-") as folder:
        os.chmod(folder, 0o755)
        yield f"{folder}/api.sock"


@pytest.fixture
def nginx(cache, faulty, secrets):
    faulty.tags(latest=A)
    return cache(faulty.port, api=secrets)


def code(answer):
    return answer["error"]["code"]


# --- set, change, lift ---


def test_set_change_and_lift(nginx):
    before = utc()
    assert nginx.holds() == (0, {})
    status, answer, _ = nginx.call("PUT", f"holds/{TAG}", {"digest": A, "reason": "it broke", "until": utc(3600), "verified": None},
                                   revision=0)  # fmt: skip
    assert (status, answer.get("revision") if isinstance(answer, dict) else answer) == (200, "1")
    hold = answer["hold"]
    assert (hold["tag"], hold["digest"], hold["author"], hold["owner"], hold["reason"]) == (TAG, A, "keeld", "keeld", "it broke")
    assert before <= hold["since"] <= utc() and hold["until"] > utc(3500) and hold["verified"] is None
    assert (hold["answers"], hold["unfetchable"], hold["ineffective"]) == ("0", "0", "0")
    assert nginx.holds() == (1, {TAG: hold})
    assert nginx.api("status")[1]["holds"] == {"revision": "1", "count": 1, "unfetchable": 0, "ineffective": 0, "problem": None}

    # The same digest again keeps the hold's age; another one is another hold.
    time_of_check = utc()
    again = nginx.hold(TAG, A, verified=time_of_check)
    assert (again["since"], again["verified"], again["until"]) == (hold["since"], time_of_check, None)
    other = nginx.hold(TAG, B)
    assert other["since"] > hold["since"] and nginx.holds()[0] == 3

    status, answer, _ = nginx.call("DELETE", f"holds/{TAG}", revision=3)
    assert (status, answer) == (200, {"revision": "4"})
    assert nginx.holds() == (4, {})
    status, answer, _ = nginx.call("DELETE", f"holds/{TAG}", revision=4)
    assert (status, code(answer)) == (404, "not-found")
    assert nginx.counters()["keel_holds_revision"] == 4


def test_every_worker_sees_a_change_at_once_after_the_answer(cache, faulty, secrets):
    faulty.tags(latest=A)
    nginx = cache(faulty.port, api=secrets, workers=4, main="")
    for i in range(20):
        digest = digest_of(f"held {i}")
        faulty.answer = lambda method, path: (
            (200, {"Content-Type": "application/vnd.oci.image.manifest.v1+json",
                   "Docker-Content-Digest": path.rsplit("/", 1)[1] if "sha256:" in path else A}, b"{}"))  # fmt: skip
        nginx.hold(TAG, digest)
        assert {nginx.pull().digest for _ in range(30)} == {digest}
        nginx.release(TAG)
        assert {nginx.pull().digest for _ in range(30)} == {A}


def test_survives_restart_and_reload(cache, faulty, secrets):
    faulty.tags(latest=A)
    nginx = cache(faulty.port, api=secrets)
    held = nginx.hold(TAG, B, until=utc(3600))
    nginx.reload()
    assert nginx.holds() == (1, {TAG: held})
    nginx.stop()
    nginx.start().wait_ready()
    assert nginx.holds() == (1, {TAG: held})
    nginx.release(TAG)
    nginx.stop()
    nginx.start().wait_ready()
    assert nginx.holds() == (2, {})


def test_registry_that_has_no_name_here_is_refused_with_those_that_have(cache, faulty, secrets):
    nginx = cache(faulty.port, api=secrets, http="map $arg_ns $name { default docker.io; }",
                  observe=f"keel on; keel_registry {REGISTRY}; location /x/ {{ keel_registry $name names=docker.io,quay.io; }}")  # fmt: skip
    for tag in ("library/redis:8", "ghcr.io/a/b:1"):
        status, answer, _ = nginx.call("PUT", f"holds/{tag}", {"digest": A}, revision=0)
        assert (status, code(answer)) == (400, "bad-tag")
        assert re.search(rf"no keel_registry is called {tag.split('/')[0]} here, there is .*{REGISTRY}, docker.io, quay.io", answer["error"]["text"])
    assert nginx.hold("docker.io/library/redis:8", A) and nginx.hold("quay.io/a/b:1", A)
    # One that was set when it had a name can be lifted.
    nginx.config.write_text(nginx.config.read_text().replace("names=docker.io,quay.io", "names=docker.io"))
    nginx.reload()
    nginx.release("quay.io/a/b:1")


def test_own_images_of_docker_hub_are_held_by_their_whole_name_only(cache, faulty, secrets):
    nginx = cache(faulty.port, api=secrets, observe="keel on; keel_registry docker.io;")
    status, answer, _ = nginx.call("PUT", "holds/docker.io/redis:8", {"digest": A}, revision=0)
    assert (status, code(answer)) == (400, "bad-tag")
    assert "docker.io/library/redis:8" in answer["error"]["text"]
    assert nginx.holds() == (0, {})


def test_the_documented_shell_function_signs(cache, faulty, secrets):
    nginx = cache(faulty.port, api=secrets)
    [script] = re.findall(r"```sh\n(sign\(\) .*?\n}\n)", (ROOT / "doc/holds.md").read_text(), re.DOTALL)
    script = script.replace("127.0.0.1:5080", f"127.0.0.1:{nginx.api_port}") + 'sign "$@"\n'

    def sign(revision, *words):
        environment = {**os.environ, "SECRET": secret_line().strip(), "REVISION": str(revision)}
        return run("bash", "-c", script, "sign", *words, env=environment)

    sign(0, "PUT", f"/keel/holds/{TAG}", json.dumps({"digest": A, "reason": "test"}))
    assert nginx.holds()[1][TAG]["digest"] == A
    sign(1, "DELETE", f"/keel/holds/{TAG}")
    assert nginx.holds() == (2, {})


# --- preconditions ---


def test_if_match(nginx):
    body = {"digest": A}
    for method, path in (("PUT", f"holds/{TAG}"), ("DELETE", f"holds/{TAG}")):
        status, answer, _ = nginx.call(method, path, body)
        assert (status, code(answer)) == (428, "no-revision")
        for wrong in ("*", "x", "-1", "0, 1", 'W/"0"'):
            status, answer, _ = nginx.call(method, path, body, revision=wrong)
            assert (status, code(answer)) == (400, "bad-revision"), wrong
        status, answer, _ = nginx.call(method, path, body, revision=1)
        assert (status, code(answer)) == (412, "revision")
    assert nginx.holds() == (0, {})
    assert nginx.call("PUT", f"holds/{TAG}", body, revision='"0"')[0] == 200


def test_of_concurrent_writes_with_one_revision_exactly_one_wins(nginx):
    def write(i):
        return nginx.call("PUT", f"holds/{REGISTRY}/app:t{i}", {"digest": digest_of(i)}, revision=0)[0]

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        statuses = sorted(pool.map(write, range(12)))
    assert statuses == [200] + [412] * 11
    assert len(nginx.holds()[1]) == 1 and nginx.holds()[0] == 1


def test_many_writers_who_read_again_all_get_through(nginx):
    def write(i):
        def attempt():
            status, answer, _ = nginx.call("PUT", f"holds/{REGISTRY}/app:t{i}", {"digest": digest_of(i)}, revision=nginx.holds()[0])
            assert status in (200, 412), answer
            return status == 200

        wait_for("write", attempt)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(24)))
    revision, held = nginx.holds()
    assert (revision, len(held)) == (24, 24)


def test_at_most_256(nginx):
    for i in range(256):
        nginx.hold(f"{REGISTRY}/app:t{i}", digest_of(i))
    status, answer, _ = nginx.call("PUT", f"holds/{REGISTRY}/app:more", {"digest": A}, revision=256)
    assert (status, code(answer)) == (409, "too-many-holds")
    assert nginx.hold(f"{REGISTRY}/app:t7", B)["digest"] == B
    nginx.release(f"{REGISTRY}/app:t8")
    nginx.hold(f"{REGISTRY}/app:more", A)
    assert len(nginx.holds()[1]) == 256
    nginx.reload()
    assert len(nginx.holds()[1]) == 256


# --- who may ---


def test_owner_is_the_author(nginx):
    status, answer, _ = nginx.call("PUT", f"holds/{TAG}", {"digest": A, "owner": "somebody"}, revision=0)
    assert (status, code(answer)) == (403, "owner")
    assert nginx.hold(TAG, A, owner="keeld")["owner"] == "keeld"
    for method in ("PUT", "DELETE"):
        status, answer, _ = nginx.call(method, f"holds/{TAG}", {"digest": B}, revision=1, key=OTHER_SECRET)
        assert (status, code(answer)) == (403, "owner")
    assert nginx.call("PUT", f"holds/{REGISTRY}/app:other", {"digest": B}, revision=1, key=OTHER_SECRET)[0] == 200
    assert {tag: hold["owner"] for tag, hold in nginx.holds()[1].items()} == {TAG: "keeld", f"{REGISTRY}/app:other": "other"}


@pytest.mark.parametrize("method, path", [("PUT", f"holds/{TAG}"), ("DELETE", f"holds/{TAG}"), ("PUT", f"current/{TAG}")])
def test_unsigned_writes_are_refused(nginx, method, path):
    body = json.dumps({"digest": A}).encode()
    target = f"/keel/{path}"
    good = sign(method, target, body)

    def attempt(headers):
        status, answer, _ = nginx.call(method, path, body, headers | {"If-Match": "0"}, key=None)
        return status, code(answer)

    assert attempt({}) == (403, "unsigned")
    for name in good:
        assert attempt({key: value for key, value in good.items() if key != name}) == (403, "unsigned")
    assert attempt(sign(method, target, body, b"a secret of somebody else's, long")) == (403, "bad-signature")
    for wrong in (
        sign("POST", target, body), sign(method.lower(), target, body), sign(method, f"/{path}", body),
        sign(method, target + "?x=1", body), sign(method, target.replace("app", "apq"), body), sign(method, target, body + b" "),
        sign(method, target, b""), good | {"webhook-id": "msg_other"}, good | {"webhook-timestamp": str(int(time.time()) + 1)},
        good | {"webhook-signature": good["webhook-signature"].replace("v1,", "v2,")},
        good | {"webhook-timestamp": "soon"},
    ):  # fmt: skip
        assert attempt(wrong) == (403, "bad-signature"), wrong
    assert nginx.holds() == (0, {})


@pytest.mark.parametrize("away", [-301, 301, -86400, 10**9])
def test_stale_signature_says_so(nginx, away):
    body = json.dumps({"digest": A}).encode()
    headers = sign("PUT", f"/keel/holds/{TAG}", body, at=time.time() + away)
    status, answer, got = nginx.call("PUT", f"holds/{TAG}", body, headers, key=None, revision=0)
    assert (status, code(answer)) == (403, "clock-skew")
    assert got["Date"] and "300 s" in answer["error"]["text"]
    assert nginx.holds() == (0, {})


def test_replay_is_refused(nginx):
    body = json.dumps({"digest": A}).encode()
    headers = sign("PUT", f"/keel/holds/{TAG}", body)
    assert nginx.call("PUT", f"holds/{TAG}", body, headers, key=None, revision=0)[0] == 200
    for revision in (0, 1):  # If-Match is not signed
        status, answer, _ = nginx.call("PUT", f"holds/{TAG}", body, headers, key=None, revision=revision)
        assert (status, code(answer)) == (403, "replayed")
    # Also when it was refused the first time, by any worker, and after a reload.
    headers = sign("DELETE", f"/keel/holds/{TAG}")
    assert nginx.call("DELETE", f"holds/{TAG}", b"", headers, key=None, revision=0)[0] == 412
    nginx.reload()
    for _ in range(8):
        status, answer, _ = nginx.call("DELETE", f"holds/{TAG}", b"", headers, key=None, revision=1)
        assert (status, code(answer)) == (403, "replayed")
    assert nginx.holds()[0] == 1


def test_any_secret_of_a_file_verifies(cache, faulty, tmp_path):
    path = tmp_path / "two.secret"
    path.write_text(secret_line(OTHER_SECRET) + secret_line(SECRET))
    path.chmod(0o600)
    nginx = cache(faulty.port, api=f"secret=keeld:{path}")
    assert nginx.call("PUT", f"holds/{TAG}", {"digest": A}, revision=0)[0] == 200
    assert nginx.call("DELETE", f"holds/{TAG}", revision=1, key=OTHER_SECRET)[0] == 200


def test_signed_target_is_that_of_the_request_line(nginx):
    path = f"holds/{REGISTRY}/app%3Alatest?why=because"
    body = json.dumps({"digest": A}).encode()
    assert nginx.call("PUT", path, body, sign("PUT", f"/keel/holds/{TAG}", body), key=None, revision=0)[0] == 403
    assert nginx.call("PUT", path, body, revision=0)[0] == 200
    assert list(nginx.holds()[1]) == [TAG]


def test_without_secret_only_a_unix_socket_may_write(socket_path, cache, faulty):
    nginx = cache(faulty.port, socket=socket_path)
    status, answer, _ = nginx.call("PUT", f"holds/{TAG}", {"digest": A}, revision=0)
    assert (status, code(answer)) == (403, "forbidden")
    status, answer, _ = nginx.call("PUT", f"holds/{TAG}", {"digest": A}, revision=0, key=None, socket=socket_path)
    assert status == 200
    user = pwd.getpwuid(os.getuid()).pw_name
    assert (answer["hold"]["author"], answer["hold"]["owner"]) == (user, user)
    status, answer, _ = nginx.call("PUT", f"holds/{TAG}", {"digest": A, "owner": "keeld"}, revision=1, key=None, socket=socket_path)
    assert (status, code(answer)) == (403, "owner")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become somebody else")
def test_author_on_a_socket_is_its_peer(socket_path, cache, faulty):
    nginx = cache(faulty.port, socket=socket_path)

    def write_as(uid, revision):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.setresuid(uid, uid, uid)
            status, answer, _ = nginx.call("PUT", f"holds/{REGISTRY}/app:u{uid}", {"digest": A}, revision=revision, key=None,
                                           socket=socket_path)  # fmt: skip
            os.write(write, json.dumps([status, answer]).encode())
            os._exit(0)
        os.close(write)
        answer = b""
        while part := os.read(read, 65536):
            answer += part
        os.close(read)
        os.waitpid(child, 0)
        return json.loads(answer)

    nobody = pwd.getpwnam("nobody").pw_uid
    status, answer = write_as(nobody, 0)
    assert status == 200 and answer["hold"]["author"] == "nobody"
    status, answer = write_as(4123456, 1)
    assert status == 200 and answer["hold"]["author"] == "uid-4123456"


def test_headers_make_no_unix_socket_of_a_port(socket_path, cache, faulty):
    nginx = cache(faulty.port, socket=socket_path, http="set_real_ip_from 127.0.0.1; real_ip_header X-Real-IP;")
    for value in ("unix:", f"unix:{socket_path}", "127.0.0.1"):
        status, answer, _ = nginx.call("PUT", f"holds/{TAG}", {"digest": A}, {"X-Real-IP": value}, key=None, revision=0)
        assert status == 403, value


# --- bodies and paths ---


@pytest.mark.parametrize("body, what", [
    ({}, "digest"), ({"digest": "sha256:1"}, "digest"), ({"digest": A, "until": "tomorrow"}, "until"), ({"digest": A, "until": utc(-1)}, "until"),
    ({"digest": A, "reason": "x" * 1025}, "reason"), ({"digest": A, "reason": "a\nb"}, "reason"), ({"digest": A, "owner": ["keeld"]}, "owner"),
    ({"digest": A, "force": 1}, "force"), ({"digest": A, "verified": True}, "verified"), ([], "object"), (b"", "line 1"), (b"{", "line 1"),
    (b'{"digest": "\xff"}', "line 1"), (b'{"digest":1,"digest":2}', "line 1"),
])  # fmt: skip
def test_bad_bodies_are_named(nginx, body, what):
    status, answer, _ = nginx.call("PUT", f"holds/{TAG}", body, revision=0)
    assert status == 400 and what in answer["error"]["text"], answer
    assert nginx.holds() == (0, {})


@pytest.mark.parametrize("path, status", [
    ("holds", 405), ("status", 405), ("holds/", 400), ("holds/app:latest", 400), (f"holds/{REGISTRY}/app", 400), (f"holds/{REGISTRY}/APP:latest", 400),
    (f"holds/{REGISTRY}/app:latest@{A}", 400), (f"holds/{REGISTRY}/app:sha256-{'0' * 64}.sig", 400), ("nothing", 404), (f"tags/{TAG}", 404),
])  # fmt: skip
def test_bad_paths(nginx, path, status):
    assert nginx.call("PUT", path, {"digest": A}, revision=0)[0] == status
    assert nginx.holds() == (0, {})


@pytest.mark.parametrize("method, path", [("GET", f"holds/{TAG}"), ("POST", f"holds/{TAG}"), ("PATCH", f"holds/{TAG}"),
                                          ("GET", f"current/{TAG}"), ("DELETE", f"current/{TAG}")])  # fmt: skip
def test_other_methods(nginx, method, path):
    assert nginx.call(method, path, revision=0)[0] == 405


def chunked(port, path, chunks, headers):
    """Sends a body in chunks as far as the other side takes it; the status and the object of its answer."""
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n"
        connection.sendall((head + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n").encode())
        try:
            for chunk in chunks:
                connection.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            connection.sendall(b"0\r\n\r\n")
        except OSError:
            pass  # it has heard enough
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer.status, json.loads(answer.read())


TOO_LARGE = {"error": {"code": "too-large", "text": "a body may have 16384 bytes"}}


@pytest.mark.parametrize("lines", ["", "client_max_body_size 1g; client_body_buffer_size 1k; client_body_in_file_only on;"])
def test_bodies_over_16_kb_are_refused(cache, faulty, secrets, lines):
    """By the module, in its own words, also with `client_max_body_size 0`, which the http block says."""
    nginx = cache(faulty.port, api=secrets)
    nginx.config.write_text(nginx.config.read_text().replace("location /keel/ {", "location /keel/ { " + lines))
    nginx.reload()
    path = f"/keel/holds/{TAG}"
    good = json.dumps({"digest": A, "x": ""}).encode()
    largest = good[:-2] + b"y" * (16384 - len(good)) + b'"}'
    assert len(largest) == 16384
    large = largest[:-2] + b'y"}'
    for method, where in (("PUT", f"holds/{TAG}"), ("DELETE", f"holds/{TAG}"), ("PUT", f"current/{TAG}"), ("GET", "status"), ("POST", "nowhere")):
        status, answer, headers = nginx.call(method, where, large, revision=0)
        assert (status, answer, headers["Content-Type"]) == (413, TOO_LARGE, "application/json")
    assert chunked(nginx.api_port, path, [large], sign("PUT", path, large) | {"If-Match": "0"}) == (413, TOO_LARGE)
    endless = (b"x" * 4096 for _ in range(4096))
    assert chunked(nginx.api_port, path, endless, sign("PUT", path, b"") | {"If-Match": "0"}) == (413, TOO_LARGE)
    assert nginx.holds() == (0, {})
    assert nginx.call("PUT", f"holds/{TAG}", largest, revision=0)[0] == 200
    pieces = [largest[i:i + 100] for i in range(0, len(largest), 100)]
    assert chunked(nginx.api_port, path, pieces, sign("PUT", path, largest) | {"If-Match": "1"})[0] == 200
    single = [largest[i:i + 1] for i in range(len(largest))]
    assert chunked(nginx.api_port, path, single, sign("PUT", path, largest) | {"If-Match": "2"})[0] == 200


def test_body_that_comes_late_or_not_at_all(cache, faulty, secrets):
    """Nobody waits for it but the one who sends it; whoever goes away leaves nothing behind."""
    nginx = cache(faulty.port, api=secrets, http="client_body_timeout 1s;")
    body, path = json.dumps({"digest": A}).encode(), f"/keel/holds/{TAG}"
    given = "".join(f"{name}: {value}\r\n" for name, value in (sign("PUT", path, body) | {"If-Match": "0"}).items())
    head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{given}\r\n".encode()
    with socket.create_connection(("127.0.0.1", nginx.api_port), 20) as late:
        late.sendall(head + body[:10])
        assert nginx.holds() == (0, {})
        late.sendall(body[10:])
        assert late.recv(4096).startswith(b"HTTP/1.1 200")
    with socket.create_connection(("127.0.0.1", nginx.api_port), 20) as silent:
        silent.sendall(head + body[:10])
        assert silent.recv(4096) == b""  # closed after client_body_timeout, as nginx does
    with socket.create_connection(("127.0.0.1", nginx.api_port), 20) as gone:
        gone.sendall(head + body[:10])
    assert nginx.holds()[0] == 1


# --- what the helper cannot do ---


def test_without_state_there_are_no_holds(cache, faulty, secrets):
    nginx = cache(faulty.port, api=secrets, state="off")
    assert nginx.holds() == (0, {})
    status, answer, _ = nginx.call("PUT", f"holds/{TAG}", {"digest": A}, revision=0)
    assert (status, code(answer)) == (501, "no-state")


def test_without_master_there_is_no_helper(cache, faulty, secrets):
    nginx = cache(faulty.port, api=secrets, main="master_process off;", workers=1)
    status, answer, _ = nginx.call("PUT", f"holds/{TAG}", {"digest": A}, revision=0)
    assert (status, code(answer)) == (503, "no-helper")


def test_helper_that_is_stopped_makes_a_write_fail_after_five_seconds(nginx):
    with nginx.stopped_helper():
        started = time.monotonic()
        status, answer, _ = nginx.call("PUT", f"holds/{TAG}", {"digest": A}, revision=0)
        assert (status, code(answer)) == (503, "not-written")
        assert 4.5 < time.monotonic() - started < 8
        assert nginx.pull().digest == A  # nothing else waits
    # What was given up is not done later.
    assert nginx.hold(f"{REGISTRY}/app:other", B)
    assert nginx.holds()[0] == 1 and TAG not in nginx.holds()[1]


def test_helper_killed_meanwhile_is_followed_by_one_that_writes(nginx):
    for i in range(5):
        with nginx.stopped_helper() as helper, concurrent.futures.ThreadPoolExecutor(1) as pool:
            write = pool.submit(nginx.call, "PUT", f"holds/{REGISTRY}/app:t{i}", {"digest": A}, revision=i)
            wait_for("nginx answers others", lambda: nginx.api("status")[0] == 200)
            os.kill(helper, signal.SIGKILL)
            assert write.result()[0] == 200
    nginx.allowed = [r"cache manager process \d+ exited on signal 9"]
    assert nginx.holds()[0] == 5


def test_worker_killed_while_it_waits_leaves_nothing_behind(cache, faulty, secrets):
    nginx = cache(faulty.port, api=secrets, workers=1)
    nginx.allowed = [r"worker process \d+ exited on signal 9"]
    for _ in range(20):  # more than there are places for writes
        with nginx.stopped_helper():
            [worker] = nginx.workers_now()
            body = json.dumps({"digest": A}).encode()
            path = f"/keel/holds/{TAG}"
            connection = http.client.HTTPConnection("127.0.0.1", nginx.api_port, timeout=10)
            connection.request("PUT", path, body, sign("PUT", path, body) | {"If-Match": "99"})
            wait_for("it waits", lambda: nginx.api("status")[0] == 200)
            os.kill(worker, signal.SIGKILL)
            connection.close()
        wait_for("another worker", lambda: nginx.workers_now() not in ([], [worker]) and nginx.ready())
    assert nginx.hold(TAG, A)["digest"] == A
    assert nginx.holds()[0] == 1


# --- PUT current ---


def test_confirming_the_pending_digest(cache, faulty, secrets, receiver):
    nginx = cache(faulty.port, api=secrets, companion=receiver.url)
    for digest in (A, B, A):
        faulty.tags(latest=digest)
        nginx.pull()
    assert (nginx.tag()["digest"], nginx.tag()["pending"]) == (B, A)
    for body in ({"digest": B, "source": "direct"}, {"digest": digest_of("c"), "source": "direct"}):
        status, answer, _ = nginx.call("PUT", f"current/{TAG}", body)
        assert (status, code(answer)) == (409, "not-pending")
    status, answer, _ = nginx.call("PUT", f"current/{REGISTRY}/app:unknown", {"digest": A})
    assert (status, code(answer)) == (409, "not-pending")
    seq = int(nginx.tag()["seq"])
    status, answer, _ = nginx.call("PUT", f"current/{TAG}", {"digest": A, "source": "direct"})
    assert (status, answer["digest"], answer["seq"], answer["tag"]) == (200, A, str(seq + 1), TAG)
    tag = nginx.tag()
    assert (tag["digest"], tag["pending"], tag["previous"], tag["change"]) == (A, None, B, "confirmed")
    wait_for("the confirmation", lambda: receiver.state().get(TAG, {}).get("change") == "confirmed")
    data = receiver.state()[TAG]
    assert (data["digest"], data["seq"], data["previous"]) == (A, str(seq + 1), B)
    # It is what is there now: nothing to confirm, and the same answer is no change.
    assert nginx.call("PUT", f"current/{TAG}", {"digest": A, "source": "direct"})[0] == 409
    nginx.pull()
    assert nginx.tag()["seq"] == str(seq + 1) and nginx.counters()["keel_confirmed_total"] == 1


# --- platforms ---


def test_digest_of_one_platform_for_an_index_needs_force(cache, upstream, repository, secrets):
    nginx = cache(api=secrets)
    image = push(upstream, repository, "latest", "image")
    nginx.pull(repository)
    index = push(upstream, repository, "latest", "index", kind="index")
    nginx.pull(repository)
    tag = f"{REGISTRY}/{repository}:latest"
    platform = upstream.manifest(repository, index).json["manifests"][0]["digest"]
    # The table knows that the tag's earlier digest is an image; of others the writer says it.
    for body in ({"digest": image}, {"digest": platform, "kind": "image"}):
        status, answer, _ = nginx.call("PUT", f"holds/{tag}", body, revision=0)
        assert (status, code(answer)) == (409, "single-platform")
    assert nginx.holds() == (0, {})
    assert nginx.hold(tag, platform, kind="image", force=True)["digest"] == platform
    assert nginx.hold(tag, index, kind="index")["digest"] == index
    assert nginx.hold(tag, image, force=True)["digest"] == image
    # Where the tag answers an image, one is fine.
    single = push(upstream, repository, "single", "single")
    nginx.pull(repository, "single")
    nginx.hold(f"{REGISTRY}/{repository}:single", single, kind="image")
