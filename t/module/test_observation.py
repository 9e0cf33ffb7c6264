"""Which answers say something about a tag, and what."""

import http.client
import threading

import pytest
from cache import REGISTRY, digest_of, get, push, raw

from lab.registry import ACCEPT, DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Registry
from lab.wait import wait_for

LEGACY = "application/vnd.docker.distribution.manifest.v1+prettyjws"


def name(repository, tag="latest", registry=REGISTRY):
    return f"{registry}/{repository}:{tag}"


# --- what counts ---


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("kind", ["image", "index"])
def test_first_answer_is_new(cache, upstream, repository, method, kind):
    nginx = cache()
    digest = push(upstream, repository, "latest", "one", kind)
    answer = nginx.pull(repository, method=method)
    assert (answer.status, answer.digest) == (200, digest)
    tag = nginx.tags()[name(repository)]
    assert tag["digest"] == digest
    assert (tag["change"], tag["kind"], tag["previous"], tag["pending"]) == ("new", kind, None, None)
    assert (tag["registry"], tag["repository"], tag["name"]) == (REGISTRY, repository, "latest")
    assert (tag["asked_by"], tag["node"]) == ("kubelet", "127.0.0.1")
    assert [seen["digest"] for seen in tag["history"]] == [digest]
    assert nginx.uncounted() == {}


def test_accept_over_several_header_lines_counts(cache, upstream, repository):
    """As skopeo, podman, dockerd and CRI-O send it."""
    nginx = cache()
    digest = push(upstream, repository, "latest", "one")
    lines = [("Accept", kind) for kind in (OCI_MANIFEST, DOCKER_MANIFEST, LEGACY, DOCKER_LIST, OCI_INDEX)]
    assert get(nginx.port, f"/v2/{repository}/manifests/latest", headers=lines)[0] == 200
    assert nginx.tags()[name(repository)]["digest"] == digest


def test_moved_tag_is_changed_and_then_the_same(cache, upstream, repository):
    nginx = cache()
    one = push(upstream, repository, "latest", "one")
    nginx.pull(repository)
    two = push(upstream, repository, "latest", "two")
    nginx.pull(repository)
    changed = nginx.tags()[name(repository)]
    assert (changed["change"], changed["digest"], changed["previous"]) == ("changed", two, one)
    nginx.pull(repository)
    again = nginx.tags()[name(repository)]
    assert again["seq"] == changed["seq"]  # nothing to publish
    assert again["last_seen"] >= changed["last_seen"]
    assert [seen["digest"] for seen in again["history"]] == [one, two]


def test_d5_tag_going_back_is_pending_until_confirmed(cache, upstream, repository):
    """A registry cache answers old digests when its upstream fails: going back changes nothing by itself."""
    nginx = cache()
    one = push(upstream, repository, "latest", "one")
    nginx.pull(repository)
    two = push(upstream, repository, "latest", "two")
    nginx.pull(repository)
    push(upstream, repository, "latest", "one")
    nginx.pull(repository)
    back = nginx.tags()[name(repository)]
    assert (back["change"], back["digest"], back["pending"]) == ("revert", two, one)
    nginx.pull(repository)
    assert nginx.tags()[name(repository)]["seq"] == back["seq"]  # told once
    push(upstream, repository, "latest", "two")
    nginx.pull(repository)
    cleared = nginx.tags()[name(repository)]
    assert (cleared["change"], cleared["digest"], cleared["pending"]) == ("cleared", two, None)
    assert int(cleared["seq"]) > int(back["seq"])


def test_new_digest_while_one_is_pending_wins(cache, upstream, repository):
    nginx = cache()
    for content in ("one", "two", "one"):
        push(upstream, repository, "latest", content)
        nginx.pull(repository)
    three = push(upstream, repository, "latest", "three")
    nginx.pull(repository)
    tag = nginx.tags()[name(repository)]
    assert (tag["change"], tag["digest"], tag["pending"]) == ("changed", three, None)


def test_four_digests_are_remembered(cache, upstream, repository):
    nginx = cache()
    digests = []
    for content in range(6):
        digests.append(push(upstream, repository, "latest", content))
        nginx.pull(repository)
    tag = nginx.tags()[name(repository)]
    assert [seen["digest"] for seen in tag["history"]] == digests[2:]
    assert tag["previous"] == digests[4]
    # The oldest of them is still known, the one before no longer.
    push(upstream, repository, "latest", 2)
    nginx.pull(repository)
    assert nginx.tags()[name(repository)]["pending"] == digests[2]
    push(upstream, repository, "latest", 1)
    nginx.pull(repository)
    assert nginx.tags()[name(repository)]["change"] == "changed"


def test_sha512_digest_joins_a_history_of_sha256(cache, faulty):
    nginx = cache(faulty.port)
    wide = "sha512:" + "ab" * 64
    for digest in (digest_of(1), wide, digest_of(2)):
        faulty.tags(latest=digest)
        nginx.pull("app")
    tag = nginx.tag()
    assert [seen["digest"] for seen in tag["history"]] == [digest_of(1), wide, digest_of(2)]
    assert (tag["digest"], tag["previous"]) == (digest_of(2), wide)
    faulty.tags(latest=wide)
    nginx.pull("app")
    assert nginx.tag()["pending"] == wide


def test_pull_through_registry_is_observed(cache, upstream, through, repository):
    nginx = cache(through.port)
    one = push(upstream, repository, "latest", "one")
    nginx.pull(repository)
    two = push(upstream, repository, "latest", "two")
    nginx.pull(repository)
    tag = nginx.tags()[name(repository)]
    assert (tag["previous"], tag["digest"]) == (one, two)


@pytest.mark.parametrize("path", ["/v2/{}/manifests/%6catest", "/v2//{}/manifests/latest", "/v2/x/../{}/manifests/latest"])
def test_every_spelling_of_a_path_is_the_same_tag(cache, faulty, repository, path):
    nginx = cache(faulty.port)
    faulty.tags(**{"latest": digest_of(1), "%6catest": digest_of(1)})
    request = f"HEAD {path.format(repository)} HTTP/1.1\r\nHost: x\r\nAccept: {ACCEPT}\r\nConnection: close\r\n\r\n"
    assert b" 200 " in raw(nginx.port, request.encode())
    assert list(nginx.tags()) == [name(repository)]


# --- what does not count ---


@pytest.mark.parametrize("accept", [DOCKER_MANIFEST, f"{OCI_MANIFEST}, {OCI_INDEX}", f"{DOCKER_MANIFEST},{DOCKER_LIST}", "*/*"])
def test_d8_narrow_accept_never_counts(cache, faulty, accept):
    """The same tag has other digests for old clients: that is no change."""
    nginx = cache(faulty.port)
    faulty.tags(latest=digest_of("index"))
    nginx.pull("app")
    faulty.tags(latest=digest_of("platform"))
    for method in ("HEAD", "GET"):
        assert nginx.pull("app", method=method, accept=accept).status == 200
    tag = nginx.tag()
    assert (tag["change"], tag["digest"]) == ("new", digest_of("index"))
    assert nginx.uncounted() == {"narrow-accept": 2}


def test_d8_no_accept_never_counts(cache, faulty):
    nginx = cache(faulty.port)
    faulty.tags(latest=digest_of(1))
    get(nginx.port, "/v2/app/manifests/latest")
    assert nginx.tags() == {}
    assert nginx.uncounted() == {"narrow-accept": 1}


def test_d8_legacy_never_counts(cache, faulty):
    nginx = cache(faulty.port)
    faulty.tags(latest=digest_of(1))
    nginx.pull("app")
    for kind in (LEGACY, "application/vnd.docker.distribution.manifest.v1+json"):
        faulty.answer = lambda method, path: (200, {"Content-Type": kind, "Docker-Content-Digest": digest_of(2)}, b"{}")
        nginx.pull("app", method="GET")
    assert nginx.tag()["digest"] == digest_of(1)
    assert nginx.uncounted() == {"legacy": 2}


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 502, 503, 504])
def test_d8_errors_never_count(cache, faulty, status):
    """Not as a change and not as a deletion, even with a digest in the answer."""
    nginx = cache(faulty.port)
    faulty.tags(latest=digest_of(1))
    nginx.pull("app")
    before = nginx.tag()
    headers = {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": digest_of(2)}
    faulty.answer = lambda method, path: (status, headers, b"{}")
    for method in ("HEAD", "GET"):
        assert nginx.pull("app", method=method).status == status
    assert nginx.tag() == before
    assert nginx.uncounted() == {"status": 2}
    _, state = nginx.api("status")
    kind = {401: "unauthorized", 403: "unauthorized", 404: "not_found", 429: "throttled"}.get(status, "failed")
    assert state["registries"][REGISTRY][kind] == "2"
    assert state["registries"][REGISTRY]["last_status"] == status


def test_d8_upstream_that_is_gone_never_counts(cache, tmp_path, repository):
    with Registry(tmp_path / "up", "up") as up:
        nginx = cache(up.port)
        digest = push(up, repository, "latest", "one")
        nginx.pull(repository)
        up.kill()
        assert nginx.pull(repository).status == 502
        assert nginx.tags()[name(repository)]["digest"] == digest
        assert nginx.uncounted() == {"status": 1}


def test_d8_pull_through_without_upstream_answers_the_old_digest(cache, tmp_path, repository):
    """Its 200 is an observation like any other; after a move it can only ever be a revert, never a change."""
    with Registry(tmp_path / "up", "up") as up, Registry(tmp_path / "thr", "thr", proxy_of=up.url) as through:
        nginx = cache(through.port)
        one = push(up, repository, "latest", "one")
        nginx.pull(repository)
        up.stop()
        assert nginx.pull(repository).digest == one
        tag = nginx.tags()[name(repository)]
        assert (tag["change"], tag["digest"], tag["pending"]) == ("new", one, None)


def test_digest_and_signature_requests_are_no_tags(cache, upstream, repository):
    nginx = cache()
    digest = push(upstream, repository, "latest", "one")
    nginx.pull(repository, digest, method="GET")
    nginx.pull(repository, digest)
    hexa = digest.split(":")[1]
    for tag in (f"sha256-{hexa}.sig", f"sha256-{hexa}.att", f"sha256-{hexa}.sbom", f"sha256-{hexa}"):
        push(upstream, repository, tag, tag)
        assert nginx.pull(repository, tag).status == 200
    assert nginx.tags() == {}
    assert nginx.uncounted() == {}


@pytest.mark.parametrize("path", ["/v2/", "/v2/app/tags/list", "/v2/app/blobs/" + digest_of(1), "/v2/_catalog",
                                  "/v2/app/manifests/", "/v2/APP/manifests/latest", "/v2/app/manifests/-bad",
                                  "/v2/app/manifests/" + "x" * 129, "/v2/manifests/latest", "/other"])  # fmt: skip
def test_other_paths_are_no_tags(cache, faulty, path):
    nginx = cache(faulty.port)
    faulty.answer = lambda method, path: (200, {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": digest_of(1)}, b"")
    get(nginx.port, path, headers=[("Accept", ACCEPT)])
    assert nginx.tags() == {}
    assert nginx.uncounted() == {}


def test_words_of_the_api_may_be_names(cache, faulty):
    nginx = cache(faulty.port)
    faulty.tags(manifests=digest_of(1))
    nginx.pull("manifests", "manifests")
    assert list(nginx.tags()) == [name("manifests", "manifests")]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST"])
def test_writing_is_no_observation(cache, faulty, method):
    nginx = cache(faulty.port)
    faulty.answer = lambda method, path: (200, {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": digest_of(1)}, b"")
    nginx.pull("app", method=method)
    assert nginx.tags() == {}


def test_range_never_counts(cache, upstream, repository):
    nginx = cache(location="proxy_force_ranges on;")
    push(upstream, repository, "latest", "one")
    answer = nginx.pull(repository, method="GET", headers={"Range": "bytes=0-9"})
    assert (answer.status, len(answer.body)) == (206, 10)
    assert nginx.tags() == {}
    assert nginx.uncounted() == {"range": 1}


def test_partial_answer_of_the_registry_never_counts(cache, faulty):
    nginx = cache(faulty.port)
    headers = {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": digest_of(1), "Content-Range": "bytes 0-1/9"}
    faulty.answer = lambda method, path: (206, headers, b"{}")
    assert nginx.pull("app", method="GET").status == 206
    assert nginx.tags() == {}


def test_not_modified_confirms_what_the_client_has(cache, upstream, repository):
    """docker-registry's 304 carries no digest: the tag is where the client's If-None-Match says, and no news."""
    nginx = cache(workers=1)
    one = push(upstream, repository, "latest", "one")
    nginx.pull(repository)
    before = nginx.tags()[name(repository)]
    answer = nginx.pull(repository, headers={"If-None-Match": f'"{one}"'})
    assert (answer.status, answer.digest) == (304, "")
    after = nginx.tags()[name(repository)]
    assert (after["change"], after["digest"], after["seq"]) == ("new", one, before["seq"])
    assert nginx.counters()['keel_observations_total{change="same"}'] == 1
    assert nginx.logged(2)[-1][3:] == ("latest", one, one, "same")


def test_d5_not_modified_is_neither_change_nor_revert(cache, upstream, repository):
    nginx = cache()
    one = push(upstream, repository, "latest", "one")
    two = push(upstream, repository, "latest", "two")
    assert nginx.pull(repository, headers={"If-None-Match": f'"{two}"'}).status == 304
    assert nginx.tags() == {}  # of a tag that nobody knows
    nginx.pull(repository)
    before = nginx.tags()[name(repository)]
    push(upstream, repository, "latest", "one")
    assert nginx.pull(repository, headers={"If-None-Match": f'"{one}"'}).status == 304
    assert nginx.tags()[name(repository)] == before
    assert nginx.uncounted() == {"unconfirmed": 2}
    # A list names no one digest, and the registry of these tests answers 200 to it.
    assert nginx.pull(repository, headers={"If-None-Match": f'"{one}", "{two}"'}).status == 200
    assert nginx.tags()[name(repository)]["change"] == "changed"


def test_not_modified_with_a_digest_only_confirms(cache, faulty):
    nginx = cache(faulty.port)
    faulty.answer = lambda method, path: (304, {"Docker-Content-Digest": digest_of(2)}, b"")
    nginx.pull("app")
    assert nginx.tags() == {}
    faulty.tags(latest=digest_of(1))
    nginx.pull("app")
    faulty.answer = lambda method, path: (304, {"Docker-Content-Digest": digest_of(2)}, b"")
    nginx.pull("app")
    assert nginx.tag()["digest"] == digest_of(1)
    faulty.answer = lambda method, path: (304, {"Docker-Content-Digest": digest_of(1)}, b"")
    nginx.pull("app")
    assert nginx.counters()['keel_observations_total{change="same"}'] == 1


@pytest.mark.parametrize("headers", [
    [("Docker-Content-Digest", "sha256:00")],
    [("Docker-Content-Digest", "md5:" + "0" * 32)],
    [("Docker-Content-Digest", digest_of(1).upper())],
    [("Docker-Content-Digest", digest_of(1)), ("Docker-Content-Digest", digest_of(2))],
])  # fmt: skip
def test_bad_digest_never_counts(cache, faulty, headers):
    nginx = cache(faulty.port)
    faulty.answer = lambda method, path: (200, [("Content-Type", OCI_MANIFEST), *headers], b"{}")
    nginx.pull("app")
    assert nginx.tags() == {}
    assert nginx.uncounted() == {"bad-digest": 1}
    assert "does not count: its Docker-Content-Digest is malformed" in nginx.errors()


def test_missing_digest_or_foreign_type_never_counts(cache, faulty):
    nginx = cache(faulty.port)
    faulty.answer = lambda method, path: (200, {"Content-Type": OCI_MANIFEST}, b"{}")
    nginx.pull("app")  # a HEAD has no body to hash
    faulty.answer = lambda method, path: (200, {"Content-Type": "text/html", "Docker-Content-Digest": digest_of(1)}, b"{}")
    nginx.pull("app")
    assert nginx.tags() == {}
    assert nginx.uncounted() == {"no-digest": 1, "unknown-type": 1}


# --- nginx between client and registry ---

CACHED = "proxy_cache manifests; proxy_cache_valid 200 1m; proxy_cache_key $uri;"


def cache_path(tmp_path):
    return f"proxy_cache_path {tmp_path}/manifests keys_zone=manifests:1m use_temp_path=off;"


def test_answer_from_nginx_own_cache_never_counts(cache, upstream, repository, tmp_path):
    """It would replay an old digest after the tag has moved."""
    nginx = cache(location=CACHED, http=cache_path(tmp_path))
    one = push(upstream, repository, "latest", "one")
    nginx.pull(repository, method="GET")
    push(upstream, repository, "latest", "two")
    assert nginx.pull(repository, method="GET").digest == one  # nginx' cache does what it is told
    assert nginx.tags()[name(repository)]["change"] == "new"
    assert nginx.uncounted() == {"cached": 1}


def test_expired_cache_asks_again_and_counts(cache, upstream, repository, tmp_path):
    nginx = cache(location=CACHED.replace("200 1m", "200 1s"), http=cache_path(tmp_path))
    push(upstream, repository, "latest", "one")
    nginx.pull(repository, method="GET")
    two = push(upstream, repository, "latest", "two")
    wait_for("expiry", lambda: nginx.pull(repository, method="GET").digest == two, interval=0.1)
    assert nginx.tags()[name(repository)]["digest"] == two


def test_background_update_of_the_cache_counts(cache, upstream, repository, tmp_path):
    location = CACHED.replace("200 1m", "200 1s") + "proxy_cache_use_stale updating; proxy_cache_background_update on;"
    nginx = cache(location=location, http=cache_path(tmp_path))
    push(upstream, repository, "latest", "one")
    nginx.pull(repository, method="GET")
    two = push(upstream, repository, "latest", "two")

    def refreshed():
        nginx.pull(repository, method="GET")
        return nginx.tags()[name(repository)]["digest"] == two

    wait_for("background update", refreshed, interval=0.1)


def test_stale_answer_while_the_registry_fails_never_counts(cache, faulty, tmp_path):
    location = CACHED.replace("200 1m", "200 1s") + "proxy_cache_use_stale http_500;"
    nginx = cache(faulty.port, location=location, http=cache_path(tmp_path))
    faulty.tags(latest=digest_of(1))
    nginx.pull("app", method="GET")
    faulty.answer = lambda method, path: (500, {}, b"")
    asked = len(faulty.asked)

    def stale():
        return nginx.pull("app", method="GET").status == 200 and len(faulty.asked) > asked

    wait_for("a stale answer", stale, interval=0.1)
    assert nginx.counters()['keel_observations_total{change="same"}'] == 0


def test_answer_that_nginx_makes_up_never_counts(cache, repository, tmp_path):
    (tmp_path / "made-up").write_text("x")
    tmp_path.chmod(0o755)
    server = f"""location ~ /manifests/made-up$ {{ default_type {OCI_MANIFEST}; alias {tmp_path}/made-up;
                                                  add_header Docker-Content-Digest {digest_of(1)}; }}"""
    nginx = cache(server=server)
    answer = nginx.pull(repository, "made-up", method="GET")
    assert (answer.status, answer.digest) == (200, digest_of(1))
    assert nginx.tags() == {}
    assert nginx.uncounted() == {"no-upstream": 1}


def test_named_location_after_an_error_is_observed_by_the_name_asked_for(cache, upstream, faulty, repository):
    """The marker survives the redirect; registry and upstream are the last location's."""
    server = f"""location @second {{ keel on; keel_registry second.example; proxy_pass http://127.0.0.1:{faulty.port}; }}"""
    nginx = cache(server=server, location="proxy_intercept_errors on; error_page 404 = @second;")
    faulty.tags(latest=digest_of(1))
    assert nginx.pull(repository).digest == digest_of(1)
    assert list(nginx.tags()) == [name(repository, registry="second.example")]
    assert nginx.logged(1)[-1][1:5] == ("second.example", repository, "latest", digest_of(1))


def test_internal_redirect_keeps_the_name_asked_for(cache, faulty):
    """X-Accel-Redirect leads to another path; what counts is what the client asked for."""
    server = f"location /elsewhere/ {{ internal; proxy_pass http://127.0.0.1:{faulty.port}; }}"
    nginx = cache(faulty.port, server=server)

    def answer(method, path):
        if path.startswith("/v2/"):
            return 200, {"X-Accel-Redirect": "/elsewhere/v2/other/manifests/stable"}, b""
        return 200, {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": digest_of(1)}, b"{}"

    faulty.answer = answer
    assert nginx.pull("app", method="GET").digest == digest_of(1)
    assert list(nginx.tags()) == [name("app")]


def test_subrequests_are_not_the_clients_answer(cache, faulty, upstream, repository):
    """auth_request and mirror ask for manifests of their own."""
    server = f"""location = /auth {{ internal; proxy_pass http://127.0.0.1:{faulty.port}/v2/auth/manifests/latest; }}
                 location = /mirror {{ internal; proxy_pass http://127.0.0.1:{faulty.port}$request_uri; }}"""
    nginx = cache(server=server, location="auth_request /auth; mirror /mirror;")
    faulty.tags(latest=digest_of("foreign"))
    digest = push(upstream, repository, "latest", "one")
    assert nginx.pull(repository).digest == digest
    wait_for("both subrequests", lambda: len(faulty.asked) == 2)
    assert {tag: state["digest"] for tag, state in nginx.tags().items()} == {name(repository): digest}


def test_location_that_is_off_is_not_observed(cache, upstream, repository):
    nginx = cache(location="keel off;")
    push(upstream, repository, "latest", "one")
    assert nginx.pull(repository).status == 200
    assert nginx.tags() == {}
    assert nginx.logged(1)[-1][1:] == ("-",) * 6


# --- who and where ---


def test_registry_by_the_ns_argument(cache, faulty):
    """One port for many upstreams, as containerd asks; only the listed names are kept."""
    nginx = cache(faulty.port, observe="keel on; keel_registry $arg_ns names=docker.io,ghcr.io,local.example:5000;")
    faulty.tags(latest=digest_of(1))
    for query in ("?ns=docker.io", "?ns=ghcr.io", "?ns=local.example%3A5000", "?ns=evil.example", "?ns=", ""):
        assert nginx.pull("app", query=query).status == 200
    assert sorted(nginx.tags()) == ["docker.io/app:latest", "ghcr.io/app:latest", "local.example:5000/app:latest"]
    assert nginx.uncounted() == {"unnamed-registry": 3}


@pytest.mark.parametrize("agent, asked_by", [("containerd/1.7.24~ds1", "kubelet"), ("cri-o/1.33.0 go/go1.24", "kubelet"),
                                             ("keeld/0.1.0", "keeld"), ("skopeo/1.18.0", "other"), ("", "other")])  # fmt: skip
def test_who_asked(cache, faulty, agent, asked_by):
    nginx = cache(faulty.port)
    faulty.tags(latest=digest_of(1))
    nginx.pull("app", agent=agent)
    assert nginx.tag()["asked_by"] == asked_by


@pytest.mark.parametrize("given, kept", [("node-3", "node-3"), ('a"b\\c', 'a"b\\c'), ("n\xe4 me", "n??me"), ("n" * 300, "n" * 63)])
def test_node_named_by_a_header(cache, faulty, given, kept):
    nginx = cache(faulty.port, server="keel_node $http_x_node;")
    faulty.tags(latest=digest_of(1))
    nginx.pull("app", headers={"X-Node": given.encode("latin-1")})
    assert nginx.tag()["node"] in (kept, kept.replace("??", "???"))


def test_variables_in_the_log(cache, upstream, repository):
    nginx = cache(workers=1)  # two may log in another order than they answer
    one = push(upstream, repository, "latest", "one")
    nginx.pull(repository)
    nginx.pull(repository)
    two = push(upstream, repository, "latest", "two")
    nginx.pull(repository)
    push(upstream, repository, "latest", "one")
    nginx.pull(repository)
    nginx.pull(repository, "absent")
    nginx.pull(repository, two)
    path = f"HEAD /v2/{repository}/manifests"
    tag = (REGISTRY, repository, "latest")
    assert nginx.logged(6) == [
        (f"{path}/latest", *tag, one, "-", "new"),
        (f"{path}/latest", *tag, one, one, "same"),
        (f"{path}/latest", *tag, two, one, "changed"),
        (f"{path}/latest", *tag, one, two, "revert"),
        (f"{path}/absent", REGISTRY, repository, "absent", "-", "-", "-"),
        (f"{path}/{two}", "-", "-", "-", "-", "-", "-"),
    ]


@pytest.mark.parametrize("old", [1, 3], ids=["seen before", "never seen"])
def test_d5_answer_that_was_overtaken_moves_nothing(cache, faulty, old):
    """Two requests cross: the older one's answer arrives after the tag has moved."""
    nginx = cache(faulty.port)
    faulty.tags(latest=digest_of(1))
    nginx.pull("app")
    late, arrived = threading.Event(), threading.Event()

    def answer(method, path):
        if path.endswith("?slow"):
            arrived.set()
            assert late.wait(10)
            return 200, {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": digest_of(old)}, b"{}"
        return 200, {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": digest_of(2)}, b"{}"

    faulty.answer = answer
    slow = threading.Thread(target=nginx.pull, args=("app",), kwargs={"query": "?slow"})
    slow.start()
    assert arrived.wait(10)
    start = nginx.counters()
    wait_for("the tag to move after the slow request began",
             lambda: nginx.pull("app").digest == digest_of(2) and nginx.tag()["digest"] == digest_of(2))  # fmt: skip
    late.set()
    slow.join()
    assert (nginx.tag()["digest"], nginx.tag()["pending"]) == (digest_of(2), None)
    assert nginx.uncounted() == {"overtaken": 1}
    assert start['keel_uncounted_total{reason="overtaken"}'] == 0


def test_keepalive_connection_serves_many_tags(cache, faulty):
    nginx = cache(faulty.port)
    faulty.tags(**{f"t{i}": digest_of(i) for i in range(50)})
    connection = http.client.HTTPConnection("127.0.0.1", nginx.port)
    for i in range(50):
        connection.request("HEAD", f"/v2/app/manifests/t{i}", headers={"Accept": ACCEPT})
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"")
    connection.close()
    assert {tag["name"]: tag["digest"] for tag in nginx.tags().values()} == {f"t{i}": digest_of(i) for i in range(50)}
