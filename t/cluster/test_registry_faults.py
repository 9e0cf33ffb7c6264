"""What registries do wrong, each with its reason code, a bounded cost, and no restart of anything.

One keeld looks at every fault at once, each under a registry name of its own, every second: a table of what it cost is
printed. D6 and D8: nothing of it is ever taken for an answer about a tag, and nobody is asked more than they allow.
"""

import base64
import json
import time

import pytest

from lab.faulty_registry import DIGEST, FAULTS, MANIFEST, RETRY_AFTER, FaultyRegistry
from lab.keeld import Keeld
from lab.kubernetes import ControlPlane
from lab.nginx import Nginx
from lab.ports import free_port
from lab.registry import Registry
from lab.wait import wait_for
from lab.workloads import daemonset, pod_template

REPOSITORY = "team/app"
SECONDS = 12  # of look-ups, one each second at most
LOOKUPS = SECONDS + 2
FAILURES = 5  # in a row open a circuit
PROBES = 5  # of an open one, in that time: 1, 2, 4, 8 s
LISTS = 4  # once a day where it is had; tried again after 2, 4, 8 s
CONTENTS = 6  # GETs by digest, a few times where they do not come

# name: (the code that is told, requests at most, of them GETs of manifests at most, bytes of bodies at most)
EXPECTED = {
    "fine": ([], LOOKUPS, 0, 0),
    "not-found": (["not-found"], LOOKUPS + 1, 1, 100),
    "forbidden": (["denied"], LOOKUPS, 0, 0),
    "head-405": ([], LOOKUPS + 1, LOOKUPS, 2000),
    "head-501": ([], LOOKUPS + 1, LOOKUPS, 2000),
    "head-404": ([], LOOKUPS + 1, LOOKUPS, 2000),
    "no-digest": ([], LOOKUPS + 1, LOOKUPS, 100),  # one body: what comes after is 304
    "mismatch": (["digest-mismatch"], 2 * LOOKUPS, LOOKUPS, 2000),
    "redirect-loop": (["redirects"], 6 * LOOKUPS, 0, 0),
    "redirect-file": (["redirects"], LOOKUPS, 0, 0),
    "web-page": (["not-comparable"], LOOKUPS, 0, 0),
    "legacy": (["not-comparable"], LOOKUPS, 0, 0),
    "truncated": (["truncated"], 2 * LOOKUPS, LOOKUPS, 2000),
    "slow-drip": (["timeout"], 3, 0, 200),
    "huge": (["too-large"], 2 * LOOKUPS, LOOKUPS, LOOKUPS << 23),
    "error-500": (["unavailable"], FAILURES + PROBES, 0, 0),
    "error-502": (["unavailable"], FAILURES + PROBES, 0, 0),
    "busy-seconds": (["rate-limited"], SECONDS // RETRY_AFTER + 2, 0, 0),
    "busy-date": (["rate-limited"], SECONDS // RETRY_AFTER + 2, 0, 0),
    "busy-unsaid": (["rate-limited"], 1, 0, 0),
    "down-seconds": (["unavailable"], SECONDS // RETRY_AFTER + 2, 0, 0),
    "few-left": ([], LOOKUPS, 0, 0),
    # One token for its lifetime (a minute, where that is not said); what is refused is not asked for again as long.
    "token-fine": ([], LOOKUPS + 2, 1, 100),
    "token-without-expiry": ([], LOOKUPS + 2, 1, 100),
    "token-refused": (["token-refused"], 5 * LOOKUPS, 2 * LOOKUPS, 100 * LOOKUPS),
    "token-scope": (["token-scope"], 5 * LOOKUPS, 2 * LOOKUPS, 100 * LOOKUPS),
    "token-unwanted": (["no-credential"], 3 * LOOKUPS, LOOKUPS, 100 * LOOKUPS),
    "token-empty": (["token-empty"], 3 * LOOKUPS, LOOKUPS, 100 * LOOKUPS),
    "token-server-fails": (["unavailable"], 3 * LOOKUPS, LOOKUPS, 100 * LOOKUPS),
    "token-realm": (["realm-invalid"], LOOKUPS, 0, 0),
    "refused": (["unreachable"], None, None, None),
    "no-host": (["no-such-host"], None, None, None),
    "strange-tls": (["tls"], 0, 0, 0),
    "no-tls": (["tls"], 0, 0, 0),
}


def name_of(fault):
    return f"{fault}.example"


CREDENTIALS = ("token-refused", "token-scope")  # keeld has some for these, and they help nothing
RUNNING = "sha256:" + "1" * 64
KEELD = "watcher"
NAMESPACES = ("faults", "lists", "budget", "real")


def run(kube, namespace, name, image):
    """A DaemonSet and the pod that a node has of it, which runs an older build."""
    owner = kube.create(daemonset(namespace, name, image))
    reference = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": name, "uid": owner["metadata"]["uid"], "controller": True}
    metadata = {"name": name, "namespace": namespace, "labels": {"app": name}, "ownerReferences": [reference]}
    kube.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod_template(image, name)["spec"]})
    container = {
        "name": "app", "image": image, "imageID": f"{image.rpartition(':')[0]}@{RUNNING}", "ready": True, "started": True,
        "restartCount": 0, "containerID": "told://app", "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
    }  # fmt: skip
    status = {"phase": "Running", "containerStatuses": [container]}
    kube.patch("pods", namespace, name, {"status": status}, "strategic", "status")


class Watched:
    """keeld over a control plane without nodes, and what it said of each registry's tag, from the start."""

    def __init__(self, plane, folder, namespace, asked, **settings):
        kube = plane.api.client()
        self.namespace = namespace
        self.codes = {fault: [] for fault in asked}  # as they were seen first
        self.digests = dict.fromkeys(asked)
        kube.namespace(namespace, labels={"keel.sh/enrolled": "true"})
        kube.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": namespace}})
        for fault in asked:
            run(kube, namespace, fault, f"{name_of(fault)}/{REPOSITORY}:1.0")
        folder.mkdir(parents=True)
        known = {name_of(fault): {"auth": base64.b64encode(b"alice:secret").decode()} for fault in CREDENTIALS}
        (folder / "config.json").write_text(json.dumps({"auths": known}))
        (folder / "config.json").chmod(0o600)
        self.keeld = Keeld(folder, {
            "kubernetes": {"kubeconfig": str(plane.api.kubeconfig(KEELD)), "lease": {"name": namespace}},
            "enrolment": {"exclude": [other for other in NAMESPACES if other != namespace]},
            "pacing": "unlimited",
            "defaults": {"pollSchedule": "@every 1s"},
            "registries": {
                name_of(fault): {"direct": url, **({"credentials": {"config": "config.json"}} if fault in CREDENTIALS else {})}
                for fault, url in asked.items()
            },
            **settings,
        })  # fmt: skip

    def look(self):
        """Notes what keeld says now; the time at which it did."""
        for item in self.keeld.get("/v1/tags?limit=1000")["items"]:
            fault = item["tag"].partition(".example/")[0]
            code = item["failure_code"]
            if code and code not in self.codes[fault]:
                self.codes[fault].append(code)
            self.digests[fault] = item["digest"]
        return time.monotonic()

    def why(self, fault):
        return self.keeld.get(f"/v1/workloads/DaemonSet/{self.namespace}/{fault}")["containers"][0]

    def ways(self, fault):
        return self.keeld.get("/v1/status")["registries"][name_of(fault)]["ways"]


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    users = {KEELD: ["system:masters"]}
    with ControlPlane(tmp_path_factory.mktemp("cp"), controllers=False, audit=True, users=users) as running:
        running.api.client().namespace("keel")
        yield running


def written(plane):
    """What any keeld wrote, its Lease aside."""
    asked = plane.api.requests(user=KEELD)
    harmless = ("leases", "selfsubjectaccessreviews")
    return [one for one in asked if one["verb"] not in ("get", "list", "watch") and one["objectRef"]["resource"] not in harmless]


@pytest.fixture(scope="module")
def faulty():
    with FaultyRegistry() as registry:
        yield registry


@pytest.fixture
def strange(tmp_path):
    with FaultyRegistry(tls=tmp_path / "tls") as registry:
        yield registry


def table(rows):
    print("\nregistry fault       requests  GETs     bytes lists  codes")
    for fault, asked, pulls, sent, lists, codes in rows:
        print(f"{fault:20} {asked:>8} {pulls:>5} {sent:>9} {lists:>5}  {', '.join(codes) or '-'}")


def test_d6_d8_every_fault_has_its_code_and_a_bounded_cost(plane, tmp_path, faulty, strange):
    plain = [fault for fault in EXPECTED if fault in FAULTS]
    registries = {fault: faulty.url(fault) for fault in plain}
    registries["refused"] = f"http://127.0.0.1:{free_port()}"
    registries["no-host"] = "http://registry.invalid"
    registries["strange-tls"] = strange.url("fine")
    registries["no-tls"] = faulty.url("fine").replace("http:", "https:")
    watched = Watched(plane, tmp_path / "keeld", "faults", registries)
    keeld = watched.keeld
    keeld.start().wait_ready()
    process = keeld.process.pid
    try:
        begin = wait_for("the first look-ups", lambda: faulty.asked["fine"] and faulty.asked["fine"][0].at, 60)

        def done():
            now = watched.look()
            missing = {fault: codes for fault, (codes, *_) in EXPECTED.items() if set(codes) - set(watched.codes[fault])}
            late = now - begin >= 3 * SECONDS  # then the table tells what did not come
            return now - begin >= SECONDS and (late or not missing)

        wait_for("every code", done, 60, interval=0.1)
        end = begin + SECONDS
        rows = []
        for fault, (codes, most, pulls, size) in EXPECTED.items():
            asked = [one for one in list(faulty.asked[fault]) if one.at <= end] if fault in FAULTS else []
            lists = [one for one in asked if "/tags/list" in one.path]
            asked = [one for one in asked if one not in lists]
            got = [one for one in asked if one.method == "GET"]
            size = sum(one.sent for one in asked)
            rows.append((fault, len(asked), len(got), size, len(lists), watched.codes[fault]))
        table(rows)
        for fault, asked, got, sent, lists, codes in rows:
            expected, most, pulls, size = EXPECTED[fault]
            assert codes == expected, f"{fault}: {codes}, not {expected}"
            assert lists <= (6 if fault == "redirect-loop" else 1) * LISTS, f"{fault}: {lists} lists of tags"
            if most is not None:
                if not codes:  # what the answers hold is read, too
                    most, pulls, size = most + CONTENTS, pulls + CONTENTS, size + CONTENTS * len(MANIFEST)
                assert asked <= most and got <= pulls and sent <= size, f"{fault}: {asked} requests, {got} GETs, {sent} bytes"
            # D8: what failed is no answer, and an answer is the one that there is.
            assert watched.digests[fault] == (None if expected else DIGEST), fault
        assert not strange.asked, "something was sent to whom nobody vouches for"
        obeyed_to_the_second(faulty)
        told(watched)
        for fault, (codes, *_) in EXPECTED.items():
            container = watched.why(fault)
            assert [one["digest"] for one in container["running"]] == [RUNNING]
            # An answer on first sight, other than what runs, waits for a second source; no answer says nothing.
            reasons = ("no-answer",) if codes else ("no-answer", "revert-unconfirmed")
            assert container["verdict"] == "blocked" and container["reason"] in reasons, f"{fault}: {container}"
        assert written(plane) == [], "a fault restarted something"
        assert keeld.process.pid == process and keeld.running()
        assert "terminate called" not in keeld.log.read_text(errors="replace")
    finally:
        keeld.stop()


def obeyed_to_the_second(faulty):
    """D6: not a moment before what it asked for is over, and about a second later at most."""
    for fault in ("busy-seconds", "busy-date", "down-seconds"):
        rounds = [[]]  # a look-up, and the list of tags that may be under way at the same time
        for one in list(faulty.asked[fault]):
            if rounds[-1] and one.at - rounds[-1][0].at > RETRY_AFTER / 2:
                rounds.append([])
            rounds[-1].append(one)
        assert len(rounds) >= 3, f"{fault}: asked {len(rounds)} times"
        assert all(len(one) <= 2 for one in rounds), f"{fault}: {rounds}"
        for one, following in zip(rounds, rounds[1:]):
            gap = following[0].at - one[0].answered
            assert RETRY_AFTER <= gap <= RETRY_AFTER + 2, f"{fault}: asked again after {gap:.3f} s"


def told(watched):
    """The same in what people read."""
    code, out, _ = watched.keeld.ctl("why", "DaemonSet/faults/web-page")
    assert "text/html" in out
    assert watched.why("web-page")["freshness"]["code"] == "not-comparable"
    assert watched.why("fine")["freshness"]["code"] is None
    problems = {one["code"]: one for one in watched.keeld.get("/v1/status")["problems"]}
    for code in ("registry-failing", "registry-rate-limited"):
        assert problems[code]["next"], problems[code]
    few = watched.ways("few-left")[0]
    assert few["rate_limit"] == {
        "limit": 100, "remaining": 7, "window": "6h", "source": "192.0.2.7", "told_by": "look-up direct",
    }  # fmt: skip
    assert few["waits"]["pulls_only"] and few["circuit"] == "closed"
    for fault in ("error-500", "error-502", "refused", "no-host", "strange-tls", "no-tls"):
        way = watched.ways(fault)[0]
        assert way["circuit"] != "closed" and int(way["requests"]) <= FAILURES + PROBES + 3, f"{fault}: {way}"
    metrics = watched.keeld.get("/metrics")
    assert 'keeld_registry_circuit_open{registry="error-500.example",by="look-up direct"} 1' in metrics
    assert 'keeld_registry_rate_remaining{registry="few-left.example",by="look-up direct"} 7' in metrics


# What a list ends with: whether it is complete, how many names it has, its code, and how many pages it cost at most.
LISTED = {
    "list-fine": (True, 2, None, 1),
    "list-endless": (False, 200, "list-too-long", 200),
    "list-loop": (False, 2, "list-loop", 3),
    "list-elsewhere": (False, 1, "list-elsewhere", 1),
    "list-404": (False, 0, "not-found", 1),
    "list-405": (False, 0, "list-unsupported", 1),
    "list-page": (False, 0, "bad-list", 1),
}


def test_d6_lists_of_tags_end(plane, tmp_path, faulty):
    """Each with its code and a bounded number of pages, and tags are looked at all the same."""
    watched = Watched(plane, tmp_path / "keeld", "lists", {fault: faulty.url(fault) for fault in LISTED})
    with watched.keeld:
        for fault, (complete, names, code, pages) in LISTED.items():
            path = f"{fault}: its list"
            ended = wait_for(path, lambda fault=fault: listed(watched.why(fault)), 60)
            told = (ended["failure"] or "").partition(":")[0] or None
            assert (ended["complete"], ended["names"], told) == (complete, names, code), f"{fault}: {ended}"
            asked = [one for one in list(faulty.asked[fault]) if "/tags/list" in one.path]
            assert len(asked) <= pages * (1 if names else LISTS), f"{fault}: {len(asked)} pages"
            print(f"{fault:18} {len(asked):>4} pages, {ended['names']} names, {code}")
        wait_for("every digest", lambda: watched.look() and set(watched.digests.values()) == {DIGEST}, 30)
        assert written(plane) == []


def listed(container):
    found = container["list"]
    return found if found and (found["read"] or found["failure"]) else None


def test_d6_a_budget_holds_and_is_told(plane, tmp_path, faulty):
    """So many an hour, whatever the schedule asks for."""
    came = len(faulty.asked["fine"])
    budget = {name_of("fine"): {"direct": faulty.url("fine"), "requests": "10/h"}}
    watched = Watched(plane, tmp_path / "keeld", "budget", {"fine": faulty.url("fine")}, registries=budget)
    with watched.keeld as keeld:
        wait_for("it is used up", lambda: watched.look() and "budget" in watched.codes["fine"], 30)
        assert len(faulty.asked["fine"]) - came == 2, "a fifth at once"
        assert watched.digests["fine"] == DIGEST, "what is known stays known"
        problem = next(one for one in keeld.get("/v1/status")["problems"] if one["code"] == "registry-budget")
        assert "registries.fine.example.requests (10 per 1h) is used up" in problem["text"]


def test_d8_a_cache_whose_registry_dies_is_back_within_seconds(plane, tmp_path):
    """nginx before a real registry: 502 opens the circuit, which costs a few requests; one answer closes it."""
    with Registry(tmp_path / "registry") as registry:
        name = name_of("real")
        digest = registry.put_index(REPOSITORY, "1.0", [])
        with Nginx(tmp_path / "nginx", {name: registry.port}) as nginx:
            cache = {"name": "cache-a", "api": nginx.api_url, "lookup": nginx.lookup_url}
            settings = {"caches": [cache], "registries": {name: {"through": "cache-a"}}}
            watched = Watched(plane, tmp_path / "keeld", "real", {"real": None}, **settings)
            with watched.keeld:
                wait_for("its digest", lambda: watched.look() and watched.digests["real"] == digest, 30)
                registry.kill()
                wait_for("the circuit", lambda: watched.look() and watched.ways("real")[0]["circuit"] == "open", 30)
                assert watched.codes["real"] == ["unavailable"], "the cause stays while nobody is asked"
                assert watched.digests["real"] == digest, "what was known stays known"
                registry.start().wait_ready()
                wait_for("an answer", lambda: watched.ways("real")[0]["circuit"] == "closed", 30)
                wait_for("no failure", lambda: watched.why("real")["freshness"]["failure"] is None, 30)
