"""Votes on a real API server: nothing is written without them, and none is for a newer digest (P6)."""

import json

from lab.wait import wait_for
from lab.workloads import deployment
from scene import (
    mark, move, name_of, own_ledger, patches, settings, wait_ended, wait_reason, wait_rolled_out, wait_why, writes,
)  # fmt: skip


def approvals(lab, name, archived=False):
    return [item for item in lab.keeld.get("/v1/approvals")
            if item["workload"] == name and (archived or not item["archived"])]  # fmt: skip


def wait_asked(lab, name, digest):
    wait_why(lab, name, "waits for votes", lambda answer: [one["gate"] for one in answer["gates"]] == ["awaiting-approval"])
    return wait_for(
        "asked for this digest",
        lambda: next((item for item in approvals(lab, name) if item["digest"] == digest), None),
    )


def post(lab, body, method="POST"):
    return lab.keeld.request(method, "/v1/approvals", json.dumps(body), {"Content-Type": "application/json"})


def test_p6_a_vote_for_an_older_digest_never_releases_a_newer_one(lab, namespace):
    lab.push("votes/app", "latest", "one")
    item = deployment(namespace, "app", lab.image("votes/app:latest"))
    item["metadata"].setdefault("annotations", {})["keel.sh/approvals"] = "1"
    lab.kube.create(item)
    name = name_of(item)
    wait_rolled_out(lab, name)
    with settings(lab, own_ledger(lab, "votes")) as since:
        wait_reason(lab, name, "up-to-date")
        assert lab.keeld.ctl("approve", name)[0] == 1, "nothing is asked for"
        first = wait_asked(lab, name, move(lab, {"votes/app": "two"})["votes/app"].digest)
        assert first["votesRequired"] == 1 and first["votesReceived"] == 0 and first["provider"] == "kubernetes"
        assert lab.keeld.ctl("approvals")[0] == 1
        assert "approval-awaited" in {problem["code"] for problem in lab.keeld.get("/v1/status")["problems"]}

        newer = move(lab, {"votes/app": "three"})["votes/app"]
        second = wait_asked(lab, name, newer.digest)
        for body in ({"id": first["id"]}, {"identifier": first["identifier"]}, {"identifier": name}):
            status, answer = post(lab, body)
            assert status == 409, (body, status, answer)
        assert post(lab, {"identifier": f"deployment/{namespace}/app:latest"})[0] == 404
        assert not writes(lab, since)

        wait_for("it is on disk", lambda: lab.keeld.get("/v1/status")["ledger"]["queued"] == 0)
        lab.keeld.kill()
        lab.keeld.start().wait_ready()
        assert wait_asked(lab, name, newer.digest)["id"] == second["id"], "what is asked for outlives a kill"
        status, voted = post(lab, {"identifier": second["identifier"].lower(), "voter": "somebody else"})
        assert status == 200 and list(voted["voters"]) != ["somebody else"] and "ignored" in voted["note"]
        wait_ended(lab, name, newer.digest)
        assert patches(lab, name, since) == [200]
        wait_for("nothing waits for it any more", lambda: not approvals(lab, name))
        told = lab.keeld.get(f"/v1/ledger?workload={name}&kind=ordered")["items"]
        assert [entry["code"] for entry in told] == ["approved"] and told[0]["cause"] == list(voted["voters"])[0]


def test_p6_a_rejected_target_is_left_until_a_newer_one_or_until_it_is_taken_back(lab, namespace):
    lab.push("votes/no", "latest", "one")
    item = deployment(namespace, "app", lab.image("votes/no:latest"))
    lab.kube.create(item)
    name = name_of(item)
    wait_rolled_out(lab, name)
    with settings(lab, own_ledger(lab, "votes-no")) as since:
        wait_reason(lab, name, "up-to-date")
        assert post(lab, {"identifier": name.lower(), "provider": "kubernetes", "votesRequired": 1}, "PUT")[0] == 200
        pushed = move(lab, {"votes/no": "two"})["votes/no"]
        wait_asked(lab, name, pushed.digest)
        code, out, err = lab.keeld.ctl("reject", name, "--reason", "not on a Friday")
        assert code == 0, (out, err)
        answer = wait_why(lab, name, "is rejected",
                          lambda answer: [one["gate"] for one in answer["gates"]] == ["approval-rejected"])  # fmt: skip
        assert "not on a Friday" in answer["gates"][0]["text"]
        assert lab.keeld.ctl("approve", name)[0] == 1
        assert not writes(lab, since)
        assert lab.keeld.ctl("reject", "--undo", name)[0] == 0
        wait_asked(lab, name, pushed.digest)
        code, out, err = lab.keeld.ctl("approve", name)
        assert code == 0, (out, err)
        wait_ended(lab, name, pushed.digest)
        assert patches(lab, name, since) == [200]
