"""The retreat: everything stops, and what runs is printed ready to apply."""

import json
import shlex

import yaml
from lab.workloads import deployment
from scene import fetch, move, name_of, own_ledger, running, settings, wait_reason, wait_rolled_out, wait_why, writes


def test_what_runs_is_pinned_and_nothing_moves_meanwhile(lab, namespace):
    lab.push("retreat/app", "latest", "one")
    item = deployment(namespace, "app", lab.image("retreat/app:latest"))
    lab.kube.create(item)
    name = name_of(item)
    wait_rolled_out(lab, name)
    with settings(lab, own_ledger(lab, "retreat")) as since:
        wait_reason(lab, name, "up-to-date")
        (runs,) = [one["digest"] for one in running(lab, name)]
        assert lab.keeld.ctl("freeze", "--reason", "moving away")[0] == 0
        pushed = move(lab, {"retreat/app": "two"})["retreat/app"]
        wait_why(lab, name, "is paused", lambda answer: [one["gate"] for one in answer["gates"]] == ["paused"])
        assert not writes(lab, since)

        pinned = f"{lab.image('retreat/app:latest')}@{runs}"
        code, out, err = lab.keeld.ctl("pins", "-n", namespace, "--format", "yaml")
        assert code == 0 and yaml.safe_load(out) == [{"workload": name, "container": "app", "image": pinned}], (out, err)
        assert f'image = "{pinned}"' in lab.keeld.ctl("pins", "--format", "terraform")[1].splitlines()
        words = shlex.split(lab.keeld.ctl("pins", "-n", namespace, "--format", "patch")[1])
        assert words[:-1] == ["kubectl", "-n", namespace, "patch", "Deployment/app", "--type", "strategic", "-p"]
        lab.kube.patch("deployments", namespace, "app", json.loads(words[-1]), "strategic")
        wait_rolled_out(lab, name)
        assert fetch(lab, name)["spec"]["template"]["spec"]["containers"][0]["image"] == pinned
        assert [one["digest"] for one in running(lab, name)] == [runs]
        wait_reason(lab, name, "pinned")
        assert lab.keeld.ctl("resume")[0] == 0

        back = {"spec": {"template": {"spec": {"containers": [{"name": "app", "image": lab.image("retreat/app:latest")}]}}}}
        lab.kube.patch("deployments", namespace, "app", back, "strategic")
        wait_rolled_out(lab, name)
        assert [one["digest"] for one in running(lab, name)] == [pushed.digest]
