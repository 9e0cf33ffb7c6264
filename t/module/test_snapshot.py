"""The tag table over restarts: what is in the file, when it is written, and what a bad one does."""

import concurrent.futures
import hashlib
import os
import pathlib
import shutil
import signal
import stat
import struct
import subprocess
import threading

import pytest
from cache import REGISTRY, digest_of

from lab.process import run
from lab.registry import OCI_MANIFEST
from lab.wait import wait_for

ALGORITHMS = {1: ("sha256", 32), 2: ("sha512", 64)}
CHANGES = ["", "new", "changed", "same", "revert", "confirmed", "cleared", "held"]


def decode(path):
    """The head and the tags of a snapshot, read by doc/snapshot.md and not by our code; any fault is an AssertionError."""
    data = pathlib.Path(path).read_bytes()
    assert hashlib.sha256(data[:-32]).digest() == data[-32:]
    magic, version, size, generation, master, zero, began, epoch, seq, written = struct.unpack_from("<8sIIQIIQ32sQq", data)
    assert (magic, version, size, zero) == (b"keelsnap", 1, 88, 0)
    head = {"generation": generation, "master": master, "began": began, "epoch": epoch.decode(), "seq": seq, "written": written}
    tags, at = {}, size
    while length := struct.unpack_from("<H", data, at)[0]:
        at, end = at + 2, at + 2 + length
        change, asker, count, current, previous, pending, *sizes = struct.unpack_from("<10B", data, at)
        number, _ = struct.unpack_from("<Qq", data, at + 10)
        at += 26
        history, kinds = [], []
        for _ in range(count):
            name, width = ALGORITHMS[data[at]]
            kinds.append(["unknown", "index", "image", "legacy"][data[at + 1]])
            history.append(f"{name}:{data[at + 18:at + 18 + width].hex()}")
            at += 18 + width
        texts = []
        for width in sizes:
            texts.append(data[at:at + width].decode())
            at += width
        assert at == end
        registry, repository, tag, node = texts
        tags.setdefault(f"{registry}/{repository}:{tag}", {
            "digest": history[current], "previous": history[previous] if previous != 255 else None,
            "pending": history[pending] if pending != 255 else None, "seq": number, "history": history,
            "change": CHANGES[change], "kind": kinds[current],
            "asked_by": ["other", "kubelet", "keeld"][asker], "node": node})  # fmt: skip
    assert struct.unpack_from("<Q", data, at + 2)[0] >= len(tags) and at + 2 + 8 + 32 == len(data)
    return head, tags


def file_of(nginx):
    return pathlib.Path(nginx.state) / "snapshot"


def lasting(tags):
    """What of the table a restart must keep: everything but epoch and seq, and these in the same order."""
    kept = {name: {key: value for key, value in tag.items() if key not in ("epoch", "seq")} for name, tag in tags.items()}
    return kept, sorted(tags, key=lambda name: int(tags[name]["seq"]))


def fill(nginx, faulty):
    """A table with something of everything: tags that are new, changed, pending, cleared, with a sha512 digest."""
    def pull(repository, tag, content, algorithm="sha256"):
        digest = f"{algorithm}:{getattr(hashlib, algorithm)(content.encode()).hexdigest()}"
        faulty.tags(**{tag: digest})
        assert nginx.pull(repository, tag).status == 200

    for content in ("one", "two", "three", "four", "five", "four"):
        pull("app", "pending", content)
    for content in ("one", "two", "one", "two"):
        pull("app", "cleared", content)
    for i in range(40):
        pull(f"library/app-{i}", f"t{i}", str(i))
    pull("app", "wide", "one")
    pull("app", "wide", "one", "sha512")
    tags = nginx.tags()
    assert tags[f"{REGISTRY}/app:pending"]["pending"] == digest_of("four")
    assert tags[f"{REGISTRY}/app:cleared"]["change"] == "cleared"
    assert tags[f"{REGISTRY}/app:wide"]["digest"].startswith("sha512:")
    return tags


def saved(nginx):
    """Waits until the file has what the table has."""
    def same():
        if not file_of(nginx).exists():
            return False
        kept = {name: (tag["digest"], tag["pending"]) for name, tag in decode(file_of(nginx))[1].items()}
        return kept == {name: (tag["digest"], tag["pending"]) for name, tag in nginx.tags().items()}

    wait_for("snapshot", same)


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGTERM])
def test_e3_restart_keeps_the_table(cache, faulty, receiver, number):
    """Also what was seen in the moment before: nothing waits for the next snapshot."""
    nginx = cache(faulty.port, companion=receiver.url)
    nginx.stop_signal = number
    before = fill(nginx, faulty)
    first = nginx.api("status")[1]
    nginx.restart()
    after, second = nginx.tags(), nginx.api("status")[1]
    assert lasting(after) == lasting(before)
    assert second["epoch"] != first["epoch"] and int(second["seq"]) >= int(first["seq"])
    assert int(second["snapshot"]["restored"]) == len(before) == nginx.counters()["keel_restored_total"]
    wait_for("everything in the new epoch", lambda: {
        name: data["seq"] for name, data in receiver.state().items() if data["epoch"] == second["epoch"]
    } == {name: tag["seq"] for name, tag in after.items()})  # fmt: skip
    # It goes on as if nothing had been: what was seen before is a revert, and the seq grows.
    faulty.tags(cleared=digest_of("one"))
    nginx.pull("app", "cleared")
    tag = nginx.tag("app", "cleared")
    assert (tag["change"], tag["pending"]) == ("revert", digest_of("one")) and int(tag["seq"]) > int(second["seq"])


def test_file_is_what_the_document_says(cache, faulty):
    """doc/snapshot.md read by somebody else; for the workers' user alone; nothing else in the directory."""
    nginx = cache(faulty.port)
    tags = fill(nginx, faulty)
    saved(nginx)
    head, kept = decode(file_of(nginx))
    status = nginx.api("status")[1]
    assert (head["epoch"], head["master"], str(head["seq"])) == (status["epoch"], nginx.pid, status["seq"])
    assert set(kept) == set(tags)
    for name, tag in tags.items():
        fields = ("digest", "previous", "pending", "change", "kind", "asked_by", "node")
        assert {field: kept[name][field] for field in fields} == {field: tag[field] for field in fields}
        assert kept[name]["history"] == [sighting["digest"] for sighting in tag["history"]]
        assert str(kept[name]["seq"]) == tag["seq"]
    assert stat.S_IMODE(file_of(nginx).stat().st_mode) == 0o600
    assert [path.name for path in pathlib.Path(nginx.state).iterdir() if path.name.startswith("snapshot")] == ["snapshot"]
    assert nginx.counters()["keel_snapshot_writes_total"] >= 1 and nginx.counters()["keel_snapshot_written_seconds"] > 0
    assert status["snapshot"]["error"] is None


def test_e3_killed_as_a_whole_it_loses_seconds_only(cache, faulty, receiver):
    nginx = cache(faulty.port, companion=receiver.url)
    fill(nginx, faulty)
    saved(nginx)
    before = nginx.tags()
    for pid in (nginx.pid, *nginx.children()):
        os.kill(pid, signal.SIGKILL)
    nginx.process.wait()
    wait_for("the ports", lambda: not listening(nginx))
    nginx.start().wait_ready()
    assert lasting(nginx.tags()) == lasting(before)


def listening(nginx):
    try:
        return nginx.ready()
    except OSError:
        return False


def test_e3_what_a_worker_sees_last_is_kept(cache, faulty):
    """A pull that ends after the helper has gone, while nginx stops."""
    nginx = cache(faulty.port)
    fill(nginx, faulty)
    asked, go_on = threading.Event(), threading.Event()
    faulty.tags(late=digest_of("late"))
    answer = faulty.answer

    def slow(method, path):
        asked.set()
        go_on.wait(20)
        return answer(method, path)

    faulty.answer = slow
    pull = threading.Thread(target=lambda: nginx.pull("app", "late"))
    pull.start()
    assert asked.wait(20)
    helper = nginx.helper()
    nginx.process.send_signal(signal.SIGQUIT)
    wait_for("the helper's end", lambda: helper not in nginx.children())
    go_on.set()
    pull.join()
    nginx.process.wait(10)
    faulty.answer = answer
    nginx.start().wait_ready()
    assert nginx.tag("app", "late")["digest"] == digest_of("late")


def test_state_off_keeps_nothing(cache, faulty):
    nginx = cache(faulty.port, state="off")
    fill(nginx, faulty)
    nginx.restart()
    assert (nginx.tags(), nginx.api("status")[1]["snapshot"]) == ({}, None)
    assert "cache manager" not in " ".join(nginx.children().values())


# --- files that are no good ---


def flipped(data):
    return data[:200] + bytes([data[200] ^ 1]) + data[201:]


def of_version_2(data):
    body = data[:8] + b"\2" + data[9:-32]
    return body + hashlib.sha256(body).digest()


BAD = {
    "torn": (lambda data: data[:-100], "it ends in the middle"),
    "one bit wrong": (flipped, "checksum is wrong"),
    "empty": (lambda data: b"", "it is no snapshot"),
    "foreign": (lambda data: b"ngx-keel-holds 1 7\n{}", "it is no snapshot"),
    "newer": (of_version_2, "it is of version 2"),
    "longer": (lambda data: data + b"x", "something follows its end"),
    "a directory": ("directory", "no regular file"),
    "a symbolic link": ("link", "a symbolic link"),
    "a pipe": ("pipe", "no regular file"),
}


@pytest.mark.parametrize("case", BAD)
def test_e3_bad_file_is_set_aside(cache, faulty, case, tmp_path):
    """It is told and kept, nothing is taken from it, nginx starts, and the next snapshot lies in its place."""
    make, words = BAD[case]
    nginx = cache(faulty.port)
    fill(nginx, faulty)
    nginx.stop()
    path = file_of(nginx)
    data = path.read_bytes()
    path.unlink()
    if make == "directory":
        path.mkdir()
    elif make == "link":
        (tmp_path / "elsewhere").write_bytes(data)
        path.symlink_to(tmp_path / "elsewhere")
    elif make == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(make(data))
    nginx.start().wait_ready()
    assert nginx.tags() == {}
    aside = path.with_name("snapshot.bad-1")
    [line] = [line for line in nginx.errors().splitlines() if "is no snapshot that can be used" in line]
    assert f'"{path}"' in line and words in line and f'"{aside}"' in line
    if callable(make):
        assert aside.read_bytes() == make(data)
    assert nginx.counters()["keel_snapshot_set_aside_total"] == 1
    faulty.tags(latest=digest_of(1))
    assert nginx.pull("app").status == 200
    saved(nginx)
    assert aside.exists() or aside.is_symlink()
    nginx.restart()
    assert list(nginx.tags()) == [f"{REGISTRY}/app:latest"]


def test_bad_files_are_all_kept(cache, faulty):
    nginx = cache(faulty.port)
    for i in (1, 2, 3):
        nginx.stop()
        file_of(nginx).write_text(f"bad {i}")
        nginx.start().wait_ready()
        wait_for("its place", lambda: decode(file_of(nginx)))
        assert file_of(nginx).with_name(f"snapshot.bad-{i}").read_text() == f"bad {i}"


def test_left_over_temporary_file_is_no_obstacle(cache, faulty):
    nginx = cache(faulty.port)
    nginx.stop()
    file_of(nginx).with_name("snapshot.new").write_text("half of it")
    nginx.start().wait_ready()
    tags = fill(nginx, faulty)
    saved(nginx)
    assert set(decode(file_of(nginx))[1]) == set(tags)
    assert not file_of(nginx).with_name("snapshot.new").exists()


def test_configuration_test_leaves_the_snapshot_alone(cache, faulty):
    """nginx -t runs as root beside an nginx that does not: it opens nothing in the workers' directory."""
    nginx = cache(faulty.port)
    nginx.stop()
    file_of(nginx).write_text("no snapshot")
    done = subprocess.run([*map(str, nginx.command()), "-t"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert file_of(nginx).read_text() == "no snapshot"


# --- a disk that fails ---


def failing(nginx, since=0):
    wait_for("a failure", lambda: nginx.counters()["keel_snapshot_failures_total"] > since)


def test_e3_full_disk_fails_no_pull(cache, faulty, disk, receiver):
    """Counted, told once in a while, and made good when there is room again; the last good snapshot stays."""
    nginx = cache(faulty.port, state=disk / "state", companion=receiver.url)
    fill(nginx, faulty)
    saved(nginx)
    good = file_of(nginx).read_bytes()
    with open(disk / "full", "wb", buffering=0) as full:
        try:
            while full.write(b"x" * 4096):
                pass
        except OSError:
            pass
    names = [f"new{i}" for i in range(20)]
    faulty.tags(**{tag: digest_of(tag) for tag in names})
    for tag in names:
        assert nginx.pull("app", tag).status == 200
    failing(nginx)
    assert "No space left on device" in nginx.api("status")[1]["snapshot"]["error"]
    assert 1 <= nginx.errors().count("keel: no snapshot is written") <= 2
    assert file_of(nginx).read_bytes() == good and not file_of(nginx).with_name("snapshot.new").exists()
    wait_for("events", lambda: {f"{REGISTRY}/app:{tag}" for tag in names} <= set(receiver.state()))
    (disk / "full").unlink()
    saved(nginx)
    assert nginx.api("status")[1]["snapshot"]["error"] is None
    assert "keel: snapshots are written again" in nginx.errors()


def test_e3_read_only_directory_fails_no_pull(cache, faulty, disk):
    """As a disk that the kernel has remounted after an error. A bad file that cannot be moved is not used either."""
    nginx = cache(faulty.port, state=disk / "state")
    fill(nginx, faulty)
    saved(nginx)
    run("mount", "-o", "remount,ro", disk)
    faulty.tags(latest=digest_of(1))
    assert nginx.pull("app").status == 200
    failing(nginx)
    assert "Read-only file system" in nginx.api("status")[1]["snapshot"]["error"]
    nginx.restart()
    assert f"{REGISTRY}/app:pending" in nginx.tags()  # of the last good one
    run("mount", "-o", "remount,rw", disk)
    nginx.stop()
    file_of(nginx).write_text("no snapshot")
    run("mount", "-o", "remount,ro", disk)
    nginx.start().wait_ready()
    assert nginx.tags() == {} and "it cannot be moved" in nginx.errors()
    assert nginx.pull("app").status == 200
    failing(nginx)
    run("mount", "-o", "remount,rw", disk)


def test_e3_directory_that_is_gone_fails_no_pull(cache, faulty):
    nginx = cache(faulty.port)
    fill(nginx, faulty)
    saved(nginx)
    shutil.rmtree(nginx.state)
    faulty.tags(latest=digest_of(1))
    assert nginx.pull("app").status == 200
    failing(nginx)
    assert f'cannot open "{nginx.state}"' in nginx.api("status")[1]["snapshot"]["error"]
    nginx.reload()  # nginx makes it again
    saved(nginx)


# --- the life of the zone ---


def reconfigured(nginx, **changes):
    """Reloads with other settings; the epoch before and after."""
    before = nginx.api("status")[1]["epoch"]
    for name, value in changes.items():
        setattr(nginx, name, value)
    nginx.write()
    nginx.reload()
    return before, nginx.api("status")[1]["epoch"]


@pytest.mark.parametrize("zone", ["keel:2m", "other:1m", "other:3m"])
def test_e3_resized_or_renamed_zone_keeps_the_table(cache, faulty, receiver, zone):
    """Under a new epoch, and over the reloads after it, which must not free the segment in use."""
    nginx = cache(faulty.port, companion=receiver.url, state="off")
    before = fill(nginx, faulty)
    counted = nginx.counters()["keel_observations_total{change=\"new\"}"]
    old, new = reconfigured(nginx, zone=zone)
    assert old != new and lasting(nginx.tags()) == lasting(before)
    wait_for("everything in the new epoch", lambda: {data["epoch"] for data in receiver.state().values()} == {new})
    assert set(receiver.state()) == set(before)
    assert nginx.counters()["keel_observations_total{change=\"new\"}"] == counted
    for _ in range(3):
        nginx.reload()
        assert nginx.api("status")[1]["epoch"] == new and lasting(nginx.tags()) == lasting(before)
    old, new = reconfigured(nginx, zone="keel:1m")
    assert old != new and lasting(nginx.tags()) == lasting(before)
    assert "taken over from the zone before it" in nginx.errors()


@pytest.mark.parametrize("zone", ["keel:2m", "keel:512k", "other:1m"])
def test_e3_resized_zone_while_old_workers_still_end_pulls(cache, faulty, receiver, zone):
    """They end them, with the zone of before; the new table and its snapshot are the new workers' alone."""
    nginx = cache(faulty.port, companion=receiver.url)
    before, answer, go_on, asked = fill(nginx, faulty), faulty.answer, threading.Event(), threading.Event()
    workers = set(nginx.workers_now())

    def late(method, path):
        if not path.endswith("/late"):
            return answer(method, path)
        asked.set()
        assert go_on.wait(30)
        return 200, {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": digest_of("late")}, b"{}"

    faulty.answer = late
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        try:
            pulled = pool.submit(nginx.pull, "app", "late", "GET")
            assert asked.wait(20)
            epoch = nginx.api("status")[1]["epoch"]
            nginx.zone = zone
            nginx.write()
            nginx.process.send_signal(signal.SIGHUP)
            wait_for("the new workers", lambda: nginx.api("status")[1]["epoch"] != epoch)
            wait_for("one that drains", lambda: len(workers & set(nginx.children())) == 1)
            assert lasting(nginx.tags()) == lasting(before)
            faulty.answer = lambda method, path: late(method, path) if path.endswith("/late") else (
                200, {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": digest_of("new")}, b"{}")
            assert nginx.pull("app", "fresh").status == 200
            saved(nginx)
        finally:
            go_on.set()
        assert pulled.result(20).status == 200
    wait_for("the end of the old workers", lambda: not workers & set(nginx.children()))
    kept = nginx.tags()
    assert set(kept) == {*before, f"{REGISTRY}/app:fresh"}  # what a draining worker sees is not taken over
    assert nginx.pull("app", "late").status == 200
    wait_for("everything", lambda: {*kept, f"{REGISTRY}/app:late"} <= set(receiver.state()))
    saved(nginx)
    kept = nginx.tags()
    nginx.restart()
    assert lasting(nginx.tags()) == lasting(kept)


def test_e3_smaller_zone_keeps_what_was_seen_last(cache, faulty):
    nginx = cache(faulty.port, state="off")
    names = [f"t{i:04}" for i in range(600)]
    faulty.tags(**{tag: digest_of(tag) for tag in names})
    for tag in names:
        nginx.pull("app", tag)
    wait_for("the next second", lambda: nginx.pull("app", names[0]) and nginx.tag("app", names[0])["last_seen"] >
             nginx.tag("app", names[-1])["last_seen"])  # fmt: skip
    reconfigured(nginx, zone="keel:64k")
    kept = nginx.tags()
    assert 20 < len(kept) < 600 and nginx.counters()["keel_left_out_total"] == 600 - len(kept)
    by_age = [names[0], *reversed(names[1:])]
    assert {tag["name"] for tag in kept.values()} == set(by_age[:len(kept)])
    assert nginx.pull("app", names[5]).status == 200 and nginx.tag("app", names[5])["digest"] == digest_of(names[5])


def test_e3_zone_too_small_on_reload_changes_nothing(cache, faulty):
    nginx = cache(faulty.port)
    before, workers = fill(nginx, faulty), nginx.workers_now()
    nginx.allowed.append("is too small")
    nginx.zone = "keel:8k"
    nginx.write()
    nginx.process.send_signal(signal.SIGHUP)
    wait_for("refusal", lambda: 'keel_zone "keel" is too small' in nginx.errors())
    assert nginx.tags() == before and nginx.workers_now() == workers


def test_e3_zone_that_was_left_out_comes_back(cache, faulty):
    """A reload without the module's directives, and one with them again, which finds the snapshot."""
    nginx = cache(faulty.port)
    before, observe = fill(nginx, faulty), nginx.observe
    nginx.zone = nginx.observe = ""
    nginx.write()
    nginx.config.write_text(nginx.config.read_text().replace("keel_api;", "return 404;"))
    nginx.reload()
    nginx.reload()
    assert nginx.pull("app", "wide").status == 200
    nginx.zone, nginx.observe = "keel:1m", observe
    nginx.write()
    nginx.reload()
    assert lasting(nginx.tags()) == lasting(before)


def test_e3_state_that_moves_on_reload(cache, faulty, tmp_path):
    """Another directory, none, and one again: the table stays, and the directory in force has it."""
    nginx = cache(faulty.port)
    before, first = fill(nginx, faulty), nginx.state
    for state in (tmp_path / "second", "off", first):
        old, new = reconfigured(nginx, state=state)
        assert old == new and lasting(nginx.tags()) == lasting(before)
        if state != "off":
            saved(nginx)
    nginx.restart()
    assert lasting(nginx.tags()) == lasting(before)


def test_e3_snapshot_into_a_smaller_zone(cache, faulty):
    nginx = cache(faulty.port)
    names = [f"t{i:04}" for i in range(600)]
    faulty.tags(**{tag: digest_of(tag) for tag in names})
    for tag in names:
        nginx.pull("app", tag)
    nginx.stop()
    nginx.zone = "keel:64k"
    nginx.write()
    nginx.start().wait_ready()
    kept = nginx.tags()
    assert 20 < len(kept) < 600 and {tag["name"] for tag in kept.values()} == set(names[-len(kept):])
    assert nginx.pull("app", "t0001").status == 200
