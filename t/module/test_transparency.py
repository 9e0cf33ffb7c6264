"""E3: whoever pulls through a cache with the module is served whatever happens to the table. That the bytes are the same:
t/conformance.
"""

import http.client

from cache import digest_of

from lab.registry import ACCEPT, OCI_MANIFEST
from lab.wait import wait_for


def test_e3_full_zone_fails_no_pull(cache, faulty):
    """Memory is bounded: what does not fit pushes out what was seen longest ago, is counted, and is told rarely."""
    nginx = cache(faulty.port, zone="keel:64k")
    names = [f"t{i:04}" for i in range(400)]
    faulty.tags(**{tag: digest_of(tag) for tag in names})
    for tag in names:
        assert nginx.pull("app", tag).status == 200
    _, state = nginx.api("status")
    kept = nginx.tags()
    assert 20 < state["zone"]["tags"] == len(kept) < 400
    assert int(state["zone"]["evicted"]) == 400 - len(kept)
    assert {tag["name"] for tag in kept.values()} == set(names[-len(kept):])
    assert nginx.counters()["keel_dropped_total"] == 0
    assert 1 <= nginx.errors().count("keel_zone is full") <= 2 + 2  # one a worker and ten seconds


def test_e3_a_megabyte_keeps_2000_tags(cache, faulty):
    """With names of 70 bytes; four digests have their place in each from the start."""
    nginx = cache(faulty.port)
    repository = "library/some-application-of-ours-with-a-name"
    names = [f"t{i:05}" for i in range(2200)]
    assert len("registry.example") + len(repository) + len(names[0]) + 2 <= 70
    faulty.tags(**{tag: digest_of(tag) for tag in names})
    connection = http.client.HTTPConnection("127.0.0.1", nginx.port)
    for tag in names:
        connection.request("HEAD", f"/v2/{repository}/manifests/{tag}", headers={"Accept": ACCEPT})
        assert connection.getresponse().read() == b""
    connection.close()
    kept = nginx.api("status")[1]["zone"]["tags"]
    print(f"{kept} tags in 1 MB")
    assert 2000 <= kept < 2200


def test_e3_evicted_tags_are_no_gap_for_the_receiver(cache, faulty, receiver):
    """A receiver that was away while its tags were pushed out gets what is there, and is not stuck."""
    receiver.behaviour = 503
    nginx = cache(faulty.port, companion=receiver.url, zone="keel:64k")
    names = [f"t{i:04}" for i in range(300)]
    faulty.tags(**{tag: digest_of(tag) for tag in names})
    for tag in names:
        nginx.pull("app", tag)
    receiver.behaviour = 204
    expected = {tag: data["digest"] for tag, data in nginx.tags().items()}
    wait_for("what is left", lambda: {tag: data["digest"] for tag, data in receiver.state().items()} == expected, 30)
    wait_for("up to date", lambda: nginx.api("status")[1]["companions"][0]["acked"] == "300")
    assert nginx.counters()["keel_evicted_unsent_total"] == 300 - len(expected)


def test_e3_long_names_share_a_full_zone(cache, faulty):
    """Entries of other sizes compete for pages: pulls go on, and nothing is corrupted."""
    nginx = cache(faulty.port, zone="keel:64k")
    faulty.answer = lambda method, path: (
        200, {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": digest_of(path.split("?")[0])}, b"{}")  # fmt: skip
    for i in range(300):
        repository = "/".join(["part"] * (1 + i % 48))
        assert nginx.pull(repository, f"t{i}-{'x' * (i % 100)}").status == 200
    for tag in nginx.tags().values():
        assert tag["digest"] == digest_of(f"/v2/{tag['repository']}/manifests/{tag['name']}")
