"""keel_api: what can be read, in pages, while the table changes."""

import datetime
import re
import threading

import pytest
from cache import REGISTRY, digest_of, get, push

from lab.nginx import Nginx
from lab.registry import OCI_MANIFEST
from lab.wait import wait_for


def fill(nginx, faulty, count, first=0):
    """`count` tags, seen in order; their names."""
    names = [f"t{i:04}" for i in range(first, first + count)]
    faulty.tags(**{tag: digest_of(tag) for tag in names})
    for tag in names:
        assert nginx.pull("app", tag).status == 200
    return names


def test_status(cache, faulty, receiver):
    nginx = cache(faulty.port, companion=receiver.url)
    status, state = nginx.api("status")
    assert status == 200
    assert (state["cache"], state["nginx"]) == ("cache-t", "1.22.1") or re.fullmatch(r"\d+\.\d+\.\d+", state["nginx"])
    assert state["seq"] == "0" and re.fullmatch(r"[0-9a-f]{32}", state["epoch"])
    assert state["zone"]["size"] == 1 << 20 and 0 < state["zone"]["used"] < 1 << 20
    assert state["holds"] == {"revision": "0", "count": 0, "unfetchable": 0, "ineffective": 0, "problem": None}
    assert state["registries"] == {}
    fill(nginx, faulty, 3)
    wait_for("all acknowledged", lambda: nginx.api("status")[1]["companions"][0]["acked"] == "3")
    _, state = nginx.api("status")
    assert (state["seq"], state["zone"]["tags"]) == ("3", 3)
    [companion] = state["companions"]
    assert (companion["url"], companion["error"], companion["failures"]) == (receiver.url, None, "0")
    assert companion["last_success"] >= state["registries"][REGISTRY]["last_answer"][:10]
    assert state["registries"][REGISTRY]["observed"] == "3"


def test_pages_in_order_of_seq(cache, faulty):
    nginx = cache(faulty.port)
    names = fill(nginx, faulty, 120)
    pages, query = [], "tags?limit=50"
    while query:
        status, page = nginx.api(query)
        assert status == 200
        pages.append(page)
        query = page["next"] and f"tags?since={page['next']}&epoch={page['epoch']}&limit=50"
    assert [len(page["tags"]) for page in pages] == [50, 50, 20]
    seen = [tag for page in pages for tag in page["tags"]]
    assert [tag["name"] for tag in seen] == names
    assert [int(tag["seq"]) for tag in seen] == list(range(1, 121))
    assert nginx.api(f"tags?since=120&epoch={pages[0]['epoch']}") == (
        200, {"epoch": pages[0]["epoch"], "seq": "120", "tags": [], "next": None})  # fmt: skip


def test_page_that_ends_the_table_has_no_next(cache, faulty):
    nginx = cache(faulty.port)
    fill(nginx, faulty, 10)
    assert nginx.api("tags?limit=10")[1]["next"] is None
    assert nginx.api("tags?limit=9")[1]["next"] == "9"


def test_change_moves_a_tag_to_the_end(cache, faulty):
    nginx = cache(faulty.port)
    names = fill(nginx, faulty, 5)
    faulty.tags(**{names[1]: digest_of("moved")})
    nginx.pull("app", names[1])
    _, page = nginx.api("tags")
    assert [tag["name"] for tag in page["tags"]] == [names[0], *names[2:], names[1]]
    _, rest = nginx.api(f"tags?since=5&epoch={page['epoch']}")
    assert [tag["digest"] for tag in rest["tags"]] == [digest_of("moved")]


def test_reader_of_pages_misses_nothing_while_tags_move(cache, faulty):
    """What moves while somebody reads appears again later: the newest state of every tag has been seen in the end."""
    nginx = cache(faulty.port)
    names = fill(nginx, faulty, 60)
    stop, generation = threading.Event(), 0

    def keep_moving():
        nonlocal generation
        while not stop.is_set():
            generation += 1
            faulty.tags(**{tag: digest_of(f"{tag}-{generation}") for tag in names})
            for tag in names[:: generation % 5 + 1]:
                nginx.pull("app", tag)

    mover = threading.Thread(target=keep_moving)
    mover.start()
    read, since, rounds = {}, 0, 0
    epoch = nginx.api("tags?limit=1")[1]["epoch"]
    while rounds < 200 and generation < 8:
        _, page = nginx.api(f"tags?since={since}&epoch={epoch}&limit=7")
        read.update((tag["name"], tag["digest"]) for tag in page["tags"])
        since = page["tags"][-1]["seq"] if page["tags"] else since
        rounds += not page["tags"]
    stop.set()
    mover.join()
    while (page := nginx.api(f"tags?since={since}&epoch={epoch}&limit=7")[1])["tags"]:
        read.update((tag["name"], tag["digest"]) for tag in page["tags"])
        since = page["tags"][-1]["seq"]
    assert read == {tag["name"]: tag["digest"] for tag in nginx.tags().values()}


def test_another_epoch_is_gone(cache, faulty):
    nginx = cache(faulty.port)
    fill(nginx, faulty, 2)
    status, body = nginx.api("tags?since=1&epoch=" + "0" * 32)
    assert status == 410 and body["error"]["code"] == "gone"
    epoch = nginx.api("status")[1]["epoch"]
    nginx.stop()
    nginx.start().wait_ready()
    assert nginx.api(f"tags?since=1&epoch={epoch}")[0] == 410
    assert nginx.api("tags?since=0&epoch=")[0] == 200


@pytest.mark.parametrize("query, what", [("since=x", "since"), ("since=", "since"), ("since=-1", "since"), ("limit=0", "limit"),
                                         ("limit=ten", "limit"), ("since=99999999999999999999&epoch=a", "since"),
                                         ("since=5", "epoch"), ("seen_since=yesterday", "seen_since")])  # fmt: skip
def test_bad_query_is_named(cache, faulty, query, what):
    nginx = cache(faulty.port)
    status, body = nginx.api(f"tags?{query}")
    assert status == 400
    assert (body["error"]["code"], what in body["error"]["text"]) == ("bad-query", True)


def test_page_has_a_largest_size(cache, faulty):
    nginx = cache(faulty.port, zone="keel:2m")
    fill(nginx, faulty, 520)
    _, page = nginx.api("tags?limit=100000")
    assert (len(page["tags"]), page["next"]) == (500, "500")


def test_seen_since_tells_only_when(cache, faulty):
    nginx = cache(faulty.port)
    names = fill(nginx, faulty, 3)
    last = nginx.tags()[f"{REGISTRY}/app:{names[2]}"]["last_seen"]

    def later():
        nginx.pull("app", names[0])
        return nginx.tags()[f"{REGISTRY}/app:{names[0]}"]["last_seen"] > last

    wait_for("a later moment", later)
    _, page = nginx.api("tags?seen_since=" + last.replace("+", "%2B"))
    assert {tag["tag"] for tag in page["tags"]} >= {f"{REGISTRY}/app:{names[0]}"}
    assert all(set(tag) == {"tag", "last_seen", "no_kubelet_since", "seq"} and tag["last_seen"] >= last for tag in page["tags"])
    assert f"{REGISTRY}/app:{names[1]}" not in {tag["tag"] for tag in page["tags"] if tag["last_seen"] < last}


def quiet_since(nginx, tag="latest"):
    _, page = nginx.api("tags?seen_since=1970-01-01T00:00:00.000Z")
    return next(one["no_kubelet_since"] for one in page["tags"] if one["tag"] == f"{REGISTRY}/app:{tag}")


def test_no_kubelet_since_is_moved_by_kubelets_alone(cache, faulty):
    """D1: what keeld compares with the starts of containers, to find nodes that go past the cache. A tag that is first
    asked for by another may have been asked for by a kubelet before; so may one that a snapshot brought."""
    nginx = cache(faulty.port)
    faulty.tags(latest=digest_of("one"))
    nginx.pull("app", agent="keeld/1")
    first = quiet_since(nginx)
    assert first == nginx.tag()["first_seen"]

    def asked_again(agent):
        return lambda: nginx.pull("app", agent=agent) and nginx.tag()["last_seen"] > first

    for agent in ("keeld/1", "curl/8"):
        wait_for("a later moment", asked_again(agent))
        assert quiet_since(nginx) == first
    nginx.pull("app")
    kubelet = quiet_since(nginx)
    assert kubelet == nginx.tag()["last_seen"] > first
    faulty.tags(latest=digest_of("another"))
    wait_for("a later moment", lambda: nginx.pull("app", agent="keeld/1") and nginx.tag()["last_seen"] > kubelet)
    assert (nginx.tag()["digest"], quiet_since(nginx)) == (digest_of("another"), kubelet)
    nginx.reload()
    assert quiet_since(nginx) == kubelet
    nginx.restart()
    wait_for("the snapshot", lambda: nginx.tags())
    assert nginx.tag()["last_seen"] < quiet_since(nginx)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_writing_is_refused(cache, faulty, method):
    nginx = cache(faulty.port)
    assert nginx.api("status", method)[0] == 405
    written = method in ("PUT", "DELETE")  # by those who may: test_api_writes.py
    assert nginx.api("holds/docker.io/library/redis:8", method)[0] == (403 if written else 405)


def test_head_has_the_length_and_no_body(cache, faulty):
    nginx = cache(faulty.port)
    _, full, body = get(nginx.api_port, "/keel/tags")
    status, headers, nothing = get(nginx.api_port, "/keel/tags", "HEAD")
    assert (status, nothing, headers["Content-Length"]) == (200, b"", full["Content-Length"])
    assert int(full["Content-Length"]) == len(body)


def test_only_its_own_paths(cache, faulty):
    server = "location /bare { keel_api; } location /closed/ { keel_api; deny all; } location /led/ { rewrite ^ /x break; keel_api; }"
    nginx = cache(faulty.port, server=server)
    assert get(nginx.port, "/bare/status")[0] == 200
    assert get(nginx.port, "/barestatus")[0] == 404
    assert get(nginx.port, "/bare")[0] == 404
    assert get(nginx.port, "/closed/status")[0] == 403
    assert get(nginx.port, "/led/status")[0] == 404
    assert nginx.api("nothing")[0] == 404
    assert nginx.api("status/")[0] == 404


def test_metrics_are_prometheus_text(cache, faulty, receiver):
    nginx = cache(faulty.port, companion=receiver.url)
    fill(nginx, faulty, 2)
    wait_for("published", lambda: nginx.counters()["keel_published_events_total"] == 2)
    status, headers, body = get(nginx.api_port, "/keel/metrics")
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4")
    typed = set()
    for line in body.decode().splitlines():
        if line.startswith("# TYPE "):
            assert line.split(" ")[2] not in typed
            typed.add(line.split(" ")[2])
        elif not line.startswith("#"):
            assert re.fullmatch(r'[a-z_]+(\{[a-z]+="[^"]*"\})? \d+', line)
            assert line.split("{")[0].split(" ")[0] in typed
    counters = nginx.counters()
    assert counters["keel_tags"] == 2
    assert counters['keel_observations_total{change="new"}'] == 2
    assert counters[f'keel_companion_behind{{url="{receiver.url}"}}'] == 0


def test_shipped_configuration_answers(tmp_path, upstream, repository, receiver):
    """conf/nginx as it is installed, workers as Debian's user."""
    tmp_path.chmod(0o711)
    for folder in tmp_path.parents:
        if folder.name.startswith("pytest-"):
            folder.chmod(0o711)
    secret = tmp_path / "secret"
    secret.write_text("whsec_" + "bW9kdWxlIHRlc3RzIHNpZ24gd2l0aCB0aGlzIG9uZS4=" + "\n")
    secret.chmod(0o600)
    with Nginx(tmp_path / "nginx", {"docker.io": upstream.port}, companion=receiver.url, secret=secret) as nginx:
        digest = push(upstream, repository, "latest", "one")
        nginx.through("docker.io").manifest(repository, "latest", "HEAD")
        assert receiver.wait(f"docker.io/{repository}:latest", digest)["change"] == "new"
        assert [tag["digest"] for tag in nginx.tags()] == [digest]
    assert not re.search(r"\[(alert|emerg|crit|error)\]", (tmp_path / "nginx/error.log").read_text())


# --- what registries say of themselves ---


def limits(status=200, **headers):
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda method, path: (status, {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": digest_of(1), **more}, b"{}")


def registry_state(nginx, registry=REGISTRY):
    return nginx.api("status")[1]["registries"][registry]


def test_rate_limits_are_kept_where_they_are_visible(cache, faulty):
    """As Docker Hub sends them, and as HTTP/2 spells them."""
    nginx = cache(faulty.port)
    faulty.answer = limits()
    nginx.pull()
    assert registry_state(nginx)["rate_limit"] is None and registry_state(nginx)["retry_at"] is None
    assert not [name for name in nginx.counters() if "rate" in name]
    faulty.answer = limits(ratelimit_limit="100;w=21600", ratelimit_remaining="76;w=21600", docker_ratelimit_source="192.0.2.7")
    nginx.pull()
    rates = registry_state(nginx)["rate_limit"]
    assert {key: rates[key] for key in rates if key != "at"} == {
        "limit": 100, "remaining": 76, "window": 21600, "source": "192.0.2.7"}  # fmt: skip
    assert rates["at"] == registry_state(nginx)["last_answer"]
    faulty.answer = limits(RateLimit_Remaining="75;w=21600")
    nginx.pull(accept="*/*")  # an answer need not count for that
    rates = registry_state(nginx)["rate_limit"]
    assert (rates["limit"], rates["remaining"], rates["window"], rates["source"]) == (None, 75, 21600, None)
    assert nginx.counters()[f'keel_registry_rate_remaining{{registry="{REGISTRY}"}}'] == 75
    faulty.answer = limits()
    nginx.pull()
    assert registry_state(nginx)["rate_limit"] == rates  # what was said last stays


def test_d6_throttled_registry_says_when_to_come_again(cache, faulty):
    nginx = cache(faulty.port)
    faulty.answer = limits(429, Retry_After="120", RateLimit_Remaining="0")
    nginx.pull()
    state = registry_state(nginx)
    assert state["last_error"] == {"status": 429, "at": state["last_answer"]} and state["throttled"] == "1"
    assert state["rate_limit"]["remaining"] == 0

    def seconds(text):
        return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()

    assert seconds(state["retry_at"]) - seconds(state["last_answer"]) == 120
    assert nginx.counters()[f'keel_registry_retry_at_seconds{{registry="{REGISTRY}"}}'] == int(seconds(state["retry_at"]))
    faulty.answer = limits(503, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT")
    nginx.pull()
    assert registry_state(nginx)["retry_at"] == "2026-10-21T07:28:00.000Z"
    faulty.answer = limits()
    nginx.pull()
    state = registry_state(nginx)
    assert state["last_status"] == 200 and state["last_error"]["status"] == 503
    assert nginx.counters()[f'keel_registry_errors_total{{registry="{REGISTRY}"}}'] == 2


def test_rate_limits_belong_to_their_registry(cache, faulty):
    nginx = cache(faulty.port, observe="keel on; keel_registry $arg_ns names=docker.io,ghcr.io;")
    faulty.answer = lambda method, path: limits(**({"RateLimit_Limit": "100"} if "docker.io" in path else {}))(method, path)
    for registry in ("docker.io", "ghcr.io", "evil.example"):
        nginx.pull(query=f"?ns={registry}")
    assert registry_state(nginx, "docker.io")["rate_limit"]["limit"] == 100
    assert registry_state(nginx, "ghcr.io")["rate_limit"] is None
    assert sorted(nginx.api("status")[1]["registries"]) == ["docker.io", "ghcr.io"]


@pytest.mark.parametrize("value", ["", "many", "-1", "9" * 40, "1;w=" + "9" * 40, '"\\', "x" * 800])
def test_odd_rate_limits_do_no_harm(cache, faulty, value):
    nginx = cache(faulty.port)
    faulty.answer = limits(RateLimit_Limit=value, RateLimit_Remaining=value, Docker_RateLimit_Source=value, Retry_After=value)
    assert nginx.pull().status == 200
    rates = registry_state(nginx)["rate_limit"]
    if value.startswith("9"):
        assert rates["limit"] == 10**12
    if rates and rates["source"]:
        assert len(rates["source"]) <= 63
    assert nginx.tag()["digest"] == digest_of(1)
