"""SIGKILL of keeld: wherever it hits, the last change is applied exactly once, no target twice, and nothing is forgotten.

Witnesses are the API server's audit log, the ReplicaSets that it made, and the ledger as sqlite3 reads it.
"""

import collections
import os
import random
import signal
import threading

import pytest

from lab.cut import HOLD, LOSE, PASS, Refuse
from lab.stage import Ledger
from lab.wait import wait_for

KILLS = 50


def kill(keeld):
    keeld.kill()
    assert keeld.process.returncode == -signal.SIGKILL


def only_patches(action):
    return lambda request: action if request.method == "PATCH" else PASS


def hold_lease(request):
    """Nobody becomes the leader: rollouts wait."""
    return Refuse(500, reason="InternalError") if request.method == "PUT" and "/leases/" in request.path else PASS


def lose_the_answer(request):
    """A patch reaches the API server, but neither its answer nor the object comes back."""
    if request.method == "PATCH":
        return LOSE
    return HOLD if request.method == "GET" and request.path.endswith("/deployments/app") else PASS


def stuck_in(stage, state, namespace, tag="latest"):
    """Another digest under the tag; the rollout of `app` to it comes to `state` and stays there, keeld is killed."""
    keeld, proxy, through = stage.keeld, stage.proxy, stage.through
    repository = f"{namespace}/app"
    if state in ("waiting", "preflight"):
        keeld.stop()
        proxy.rule = hold_lease
        keeld.start().wait_ready()
        target = stage.move(repository, tag)
        stage.wait_state(namespace, "app", "waiting")
        if state == "preflight":  # the look-up that counts finds a registry that does not answer
            os.kill(through.pid, signal.SIGSTOP)
            proxy.rule = lambda request: PASS
            stage.wait_state(namespace, "app", "preflight")
        kill(keeld)
        os.kill(through.pid, signal.SIGCONT)
    elif state == "intended":  # the patch never reaches the API server
        proxy.opened.clear()
        proxy.rule = only_patches(HOLD)
        target = stage.move(repository, tag)
        wait_for("a held patch", lambda: proxy.seen("PATCH", f"/{namespace}/", HOLD))
        kill(keeld)
        proxy.opened.set()
    elif state == "rolling":  # the API server has taken the patch, and keeld does not know
        proxy.opened.clear()
        proxy.rule = lose_the_answer
        target = stage.move(repository, tag)
        wait_for("an answer that was lost", lambda: [one for one in proxy.seen("PATCH", f"/{namespace}/") if one.status])
        wait_for("keeld asks what became of it", lambda: proxy.seen("GET", f"/{namespace}/deployments/app", HOLD))
        kill(keeld)
        proxy.opened.set()
    else:
        stage.told.hold()
        target = stage.move(repository, tag)
        stage.wait_state(namespace, "app", "verifying")
        kill(keeld)
    return target


STATES = ["waiting", "preflight", "intended", "rolling", "verifying"]


@pytest.mark.parametrize("state", STATES)
def test_p7_killed_in_every_state(stage, state):
    namespace = f"kill-{state}"
    stage.deploy(namespace, "app", f"{namespace}/app")
    target = stuck_in(stage, state, namespace)
    ledger = Ledger(stage.keeld.ledger)
    left = [row for row in ledger.rollouts() if row["workload"] == f"Deployment/{namespace}/app" and not row["ended"]]
    stage.proxy.rule = lambda request: PASS
    stage.told.release()
    stage.keeld.start().wait_ready()
    stage.wait_current(namespace, "app", target)
    done = stage.exactly_once(namespace, "app")
    assert list(done) == [target]
    if state in ("waiting", "preflight"):
        assert left == []  # only computed so far: nothing that could be forgotten or repeated
    else:
        # The intent that was left behind is what has been written, with the same bytes.
        assert [row["marker"] for row in left] == [done[target]]
        found = [one["code"] for one in ledger.entries("applied") if one["rollout"] == left[0]["id"]]
        assert found == {"intended": ["restart"], "rolling": ["found"], "verifying": ["restart"]}[state]


@pytest.mark.parametrize("state", STATES)
def test_p7_d7_a_tag_change_killed_in_every_state(stage, state):
    """The same for a newer tag: the image field itself tells whether it was written."""
    namespace = f"kill-tag-{state}"
    old, new = (stage.image(f"{namespace}/app:{tag}") for tag in ("1.0.0", "1.1.0"))
    stage.deploy(namespace, "app", f"{namespace}/app", tag="1.0.0", annotations={"keel.sh/policy": "minor"})
    target = stuck_in(stage, state, namespace, tag="1.1.0")
    ledger = Ledger(stage.keeld.ledger)

    def rows():
        return [row for row in ledger.rollouts() if row["workload"] == f"Deployment/{namespace}/app"]

    left = [row for row in rows() if not row["ended"]]
    stage.proxy.rule = lambda request: PASS
    stage.told.release()
    stage.keeld.start().wait_ready()
    stage.wait_current(namespace, "app", target)
    wait_for("the ledger is written", lambda: stage.keeld.get("/v1/status")["ledger"]["queued"] == 0)
    assert len(stage.patches(namespace, "app")) == 1
    assert stage.revision_images(namespace, "app") == [old, new]
    done = [row for row in rows() if row["state"] == "done"]
    assert len(done) == 1 and all(row["ended"] for row in rows())
    assert [(one["from_image"], one["image"], one["to"]) for one in done[0]["targets"]] == [(old, new, target)]
    if state in ("waiting", "preflight"):
        assert left == []
    else:
        assert [row["id"] for row in left] == [done[0]["id"]] and left[0]["targets"] == done[0]["targets"]
        found = [one["code"] for one in ledger.entries("applied") if one["rollout"] == left[0]["id"]]
        assert found == {"intended": ["image"], "rolling": ["found"], "verifying": ["image"]}[state]


class Moves(threading.Thread):
    """Moves the tags of some repositories at random moments and has some of it seen by pulls, until it is told to end."""

    def __init__(self, stage, repositories, chance):
        super().__init__(daemon=True)
        self.stage, self.repositories, self.chance = stage, repositories, chance
        self.ended = threading.Event()
        self.moves = 0
        self.failure = None

    def run(self):
        try:
            while not self.ended.wait(self.chance.uniform(0.1, 2.0)):
                repository = self.chance.choice(self.repositories)
                self.stage.move(repository)
                self.moves += 1
                if self.chance.random() < 0.5:
                    self.stage.pull(repository)
        except Exception as error:
            self.failure = error

    def end(self):
        self.ended.set()
        self.join(30)
        assert self.failure is None, repr(self.failure)


def test_p7_d7_fifty_kills_at_random_points(stage):
    seed = int(os.environ.get("KEEL_SEED", "20261122"))
    print(f"KEEL_SEED={seed}")
    chance = random.Random(seed)
    workloads = [(f"kills-{place}", name) for place in "ab" for name in ("web", "jobs")]
    for namespace, name in workloads:
        stage.deploy(namespace, name, f"{namespace}/{name}", replicas=2)
    keeld, ledger = stage.keeld, Ledger(stage.keeld.ledger)
    moves = Moves(stage, [f"{namespace}/{name}" for namespace, name in workloads], chance)
    moves.start()
    known, met, last = {}, collections.Counter(), {}

    def kill_once():
        """SIGKILL at a random moment after the start or after it is ready; what the ledger held is remembered."""
        if chance.random() < 0.6:
            keeld.wait_ready()
        threading.Event().wait(chance.uniform(0, 1.5))
        kill(keeld)
        for row in ledger.rollouts():
            if not row["ended"]:
                met[row["state"]] += 1
        known.update({one["seq"]: one for one in ledger.entries()})
        keeld.start()

    for _ in range(KILLS * 4 // 5):
        kill_once()
    moves.end()
    # The last change of each: from a world at rest, so that it has to be written by keeld, under kills as well.
    keeld.wait_ready()
    for namespace, name in workloads:
        stage.wait_current(namespace, name, stage.upstream.digest(f"{namespace}/{name}", "latest"))
    for namespace, name in workloads:
        last[namespace, name] = stage.move(f"{namespace}/{name}")
    for _ in range(KILLS - KILLS * 4 // 5):
        kill_once()
    keeld.wait_ready()
    for (namespace, name), target in last.items():
        stage.wait_current(namespace, name, target)
    written = 0
    for (namespace, name), target in last.items():
        done = stage.exactly_once(namespace, name)
        assert list(done)[-1] == target
        written += len(done)
    # Nothing that was ever committed is gone or different, and the file is whole.
    assert ledger.sound()
    now = {one["seq"]: one for one in ledger.entries()}
    assert {seq: now.get(seq) for seq in known} == known
    print(f"{KILLS} kills, {moves.moves} moves, {written} restarts, open rollouts met at a kill: {dict(met)}")
    assert moves.moves >= 10 and written >= 8 and met, "the kills hit nothing"
