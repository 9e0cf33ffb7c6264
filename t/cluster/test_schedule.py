"""When registries are asked, by their own logs: a day of schedules passes in seconds, because keeld's clock is moved."""

import collections
import datetime
import itertools

import pytest

from lab.day import FORCE, ORDERED, PATTERN, REGISTRIES, VERSIONS, Day
from lab.wait import wait_for
from lab.workloads import deployment

NUMBERS = itertools.count(1)
HOUR = datetime.timedelta(hours=1)
BLOCKS = [FORCE, ORDERED, VERSIONS, PATTERN]
TRAFFIC = [("block-0/app", "latest"), ("block-1/app", "1.0.0"), ("block-2/app", "1.0.0")]


@pytest.fixture(scope="module")
def day(tmp_path_factory):
    """80 tags in 20 workloads of 20 containers each, none of which runs: nothing but tags is asked for."""
    with Day(tmp_path_factory.mktemp("day"), 20, BLOCKS) as running:
        yield running


@pytest.fixture
def namespace(day):
    """An enrolled namespace of this test's own."""
    name = f"test-{next(NUMBERS)}"
    day.kube.namespace(name, {"keel.sh/enrolled": "true"})
    yield name
    for item in day.kube.list("deployments", name):
        day.kube.delete("deployments", name, item["metadata"]["name"])


def asked_for(day, repository, kind="look-up", since=None):
    return [item for item in day.of(kind, since) if item.tag[1] == repository]


def add(day, namespace, name, repository, tag, **annotations):
    annotations = {f"keel.sh/{key}": value for key, value in annotations.items()}
    image = f"{REGISTRIES[1]}/{repository}:{tag}"
    day.kube.create(deployment(namespace, name, image, annotations=annotations))
    return f"Deployment/{namespace}/{name}"


def annotate(day, workload, **annotations):
    _, namespace, name = workload.split("/")
    patch = {"metadata": {"annotations": {f"keel.sh/{key}": value for key, value in annotations.items()}}}
    day.kube.patch("deployments", namespace, name, patch)


def known(day, workload, condition):
    """Waits until keeld has taken notice, and asked for what is due by then."""

    def met():
        status, answer = day.keeld.request("GET", f"/v1/workloads/{workload}")
        return answer if status == 200 and condition(answer) else None

    answer = wait_for(f"{workload} known", met, 30)
    day.wait_asked()
    return answer


def test_d6_one_look_up_per_tag_and_interval_all_day(day):
    """At most one HEAD per tag and hour, none where traffic answered, lists only as policy.md's Triggers say."""
    begin = day.clock.now
    end = begin + 24 * HOUR
    traffic = collections.defaultdict(list)
    step = 0
    while day.clock.now < end - datetime.timedelta(minutes=5):
        if step % 8 == 4:  # every 40 minutes
            for repository, name in TRAFFIC:
                day.kubelet_asks(repository, name)
                traffic[REGISTRIES[0], repository, name].append(day.clock.now)
        day.pass_time(minutes=5)
        step += 1
    looks = collections.defaultdict(list)
    for item in day.of("look-up"):
        assert item.status == 200
        looks[item.tag].append(item.at)
    assert set(looks) == set(day.all_tags), "every tag in use, and no other"
    for tag, times in looks.items():
        assert len(times) <= 24, (tag, times)
        for before, after in zip(times, times[1:]):
            assert after - before >= HOUR, (tag, before, after)
        for after in times:
            answered = [at for at in traffic.get(tag, ()) if after - HOUR < at <= after]
            assert not answered, f"{tag} was asked for at {after}, after traffic at {answered}"
    quiet = [tag for tag in looks if tag not in traffic]
    assert min(len(looks[tag]) for tag in quiet) >= 21, "and they were asked for"
    assert all(len(looks[tag]) <= 2 for tag in traffic), "these were answered by traffic"
    lists = collections.Counter(item.tag for item in day.of("list"))
    print(f"{sum(map(len, looks.values()))} look-ups, {lists.total()} lists, {len(day.of('content'))} manifests")
    for registry in REGISTRIES:
        assert lists[registry, "block-0/app"] == 0, "channels"
        assert lists[registry, "block-1/app"] == 1, "ordered tags without a tag policy: once a day"
        assert 21 <= lists[registry, "block-2/app"] <= 24 and 21 <= lists[registry, "block-3/app"] <= 24
    assert day.metric("keeld_lookups_spared_total") > 0
    # By the minute: what was asked for together comes back spread over five of them.
    hour = [len([item for item in day.pass_time(minutes=1) if item.kind == "look-up"]) for _ in range(66)]
    assert sum(hour) >= len(looks) - len(traffic) and max(hour) < len(looks) // 2, hour


def test_d6_a_changed_schedule_takes_effect_at_once_and_is_never_starved(day, namespace):
    repository = "changed/app"
    day.push(REGISTRIES[1], repository, "latest")
    workload = add(day, namespace, "app", repository, "latest", pollSchedule="@every 24h")
    known(day, workload, lambda answer: answer["containers"][0]["newest"])
    assert len(asked_for(day, repository)) == 1
    day.pass_time(hours=2)
    assert len(asked_for(day, repository)) == 1
    annotate(day, workload, pollSchedule="@every 1h")

    def second():
        day.wait_asked()
        return len(asked_for(day, repository)) == 2

    wait_for("asked for, as an hour has passed already", second, 30)
    for minute in range(0, 180, 10):  # edited every ten minutes
        text = f"@every {50 + minute // 10 % 2}m"
        annotate(day, workload, pollSchedule=text)
        known(day, workload, lambda answer: answer["containers"][0]["settings"]["pollSchedule"]["value"] == text)
        day.pass_time(minutes=10)
    assert len(asked_for(day, repository)) in (5, 6)


def test_d6_two_workloads_share_the_shorter_schedule(day, namespace):
    repository = "shared/app"
    day.push(REGISTRIES[1], repository, "latest")
    slow = add(day, namespace, "slow", repository, "latest", pollSchedule="@every 6h")
    known(day, slow, lambda answer: answer["containers"][0]["newest"])
    quick = add(day, namespace, "quick", repository, "latest", pollSchedule="0 0/20 * * * *")
    known(day, quick, lambda answer: answer["containers"][0]["newest"])
    since = day.clock.now
    for _ in range(24):
        day.pass_time(minutes=5)
    assert 5 <= len([item for item in asked_for(day, repository, since=since) if item.at > since]) <= 6
    day.kube.delete("deployments", namespace, "quick")
    wait_for("quick gone", lambda: day.keeld.request("GET", f"/v1/workloads/{quick}")[0] == 404, 30)
    since = day.clock.now
    for _ in range(24):
        day.pass_time(minutes=5)
    assert not [item for item in asked_for(day, repository, since=since) if item.at > since]


def test_d6_push_asks_for_nothing(day, namespace):
    day.push(REGISTRIES[1], "pushed/app", "1.0.0")
    day.push(REGISTRIES[1], "polled/app", "1.0.0")
    add(day, namespace, "pushed", "pushed/app", "1.0.0", trigger="default", policy="patch")
    polled = add(day, namespace, "polled", "polled/app", "1.0.0", policy="patch")
    known(day, polled, lambda answer: answer["containers"][0]["newest"])
    day.pass_time(hours=2)
    assert asked_for(day, "polled/app") and asked_for(day, "polled/app", "list")
    assert not [item for item in day.asked if item.tag and item.tag[1] == "pushed/app" and item.agent == "keeld"]


@pytest.mark.parametrize("schedule", ["", "5m", "@every never"])
def test_d1_a_schedule_that_is_none_is_told_and_the_default_holds(day, namespace, schedule):
    repository = f"{namespace}/app"
    day.push(REGISTRIES[1], repository, "latest")
    workload = add(day, namespace, "app", repository, "latest", pollSchedule=schedule)
    known(day, workload, lambda answer: answer["containers"][0]["newest"])
    settings = day.keeld.get(f"/v1/workloads/{workload}")["containers"][0]["settings"]
    assert [fault for fault in settings["faults"] if fault.startswith(f'keel.sh/pollSchedule: "{schedule}"')]
    problems = day.keeld.get("/v1/status")["problems"]
    assert [item for item in problems if item["code"] == "setting-invalid" and workload in item["text"]]
    assert len(asked_for(day, repository)) == 1
    day.pass_time(minutes=66)
    assert len(asked_for(day, repository)) == 2


def test_d4_tags_that_are_gone_are_flagged(day, namespace):
    """One that answers 404, and one that its repository's list lacks while it is still answered."""

    def gone():
        problems = day.keeld.get("/v1/status")["problems"]
        return " ".join(item["text"] for item in problems if item["code"] == "tag-gone")

    registry = REGISTRIES[1]
    digest = day.push(registry, "leaving/app", "1.0.0")
    workload = add(day, namespace, "app", "leaving/app", "1.0.0", policy="patch")
    known(day, workload, lambda answer: answer["containers"][0]["newest"])
    assert "leaving/app" not in gone()
    day.registries[registry].delete_manifest("leaving/app", digest)
    day.pass_time(minutes=66)
    assert f"{registry}/leaving/app:1.0.0" in wait_for("flagged", gone, 10)
    day.push(registry, "leaving/app", "1.0.0")
    day.pass_time(hours=2)
    wait_for("it is back", lambda: "leaving/app" not in gone(), 10)


def test_d6_restarted_keeld_does_not_list_again(day):
    since = len(day.asked)
    day.keeld.stop()
    day.start_keeld()
    lists = [item for item in day.asked[since:] if item.kind == "list"]
    assert not lists, "the ledger has them"
