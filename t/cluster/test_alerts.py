"""conf/prometheus and conf/grafana: every alert fires and ends, and what they ask for is what keeld and nginx export."""

import json
import pathlib
import re

import pytest
import yaml

from lab.ports import free_port
from lab.process import program, run
from lab.prometheus import Prometheus
from lab.wait import wait_for
from lab.workloads import deployment

ROOT = pathlib.Path(__file__).resolve().parents[2]
RULES = ROOT / "conf/prometheus/alerts.yaml"
CASES = pathlib.Path(__file__).with_name("alerts_test.yaml")
METRIC = re.compile(r"\b(keeld?_[a-z_]+)\b")
# What is there only when a registry sends such a header.
RARE = {"keel_registry_rate_remaining"}


def rules():
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def panels():
    """{title: [expressions]} of the dashboard, its variables filled in."""
    board = json.loads((ROOT / "conf/grafana/ngx-keel.json").read_text())
    fill = {"$__rate_interval": "1m", "$__interval": "1m"}
    found = {item["name"]: [item["expr"]] for item in board["annotations"]["list"]}
    for panel in board["panels"]:
        found.setdefault(panel["title"], []).extend(target["expr"] for target in panel.get("targets", []))
    for expressions in found.values():
        for old, new in fill.items():
            expressions[:] = [expression.replace(old, new) for expression in expressions]
    return {title: expressions for title, expressions in found.items() if expressions}


@pytest.fixture
def watched(stage, tmp_path):
    """(stage, a Prometheus that scrapes its keeld and nginx and has our rules)."""
    before, port = stage.keeld.config, free_port()
    stage.keeld.stop()
    stage.keeld.write({"listen": [*before["listen"], {"at": f"127.0.0.1:{port}", "serve": ["metrics"]}]})
    try:
        stage.keeld.start().wait_ready()
        targets = {"keeld": (f"127.0.0.1:{port}", "/metrics"),
                   "cache": (f"127.0.0.1:{stage.nginx.api_port}", "/keel/metrics")}  # fmt: skip
        with Prometheus(tmp_path / "prometheus", targets, [RULES]) as prometheus:
            yield stage, prometheus
    finally:
        stage.keeld.stop()
        stage.keeld.config = before
        stage.keeld.write()
        stage.keeld.start().wait_ready()


def test_every_alert_fires_and_ends_as_its_cases_say():
    promtool = program("promtool")
    run(promtool, "check", "rules", RULES)
    run(promtool, "test", "rules", CASES.name, cwd=CASES.parent)
    cases = {}
    for case in yaml.safe_load(CASES.read_text())["tests"]:
        for one in case["alert_rule_test"]:
            cases.setdefault(one["alertname"], []).append(bool(one.get("exp_alerts")))
    assert set(cases) == {rule["alert"] for rule in rules()}
    for name, fires in cases.items():
        assert fires[0] is False and True in fires and fires[-1] is False, name


def test_d1_a_watch_that_cannot_fire_is_an_alert_and_all_that_is_asked_for_exists(watched):
    stage, prometheus = watched
    stage.deploy("alerts", "fine", "team/alerts")
    stage.pull("team/alerts")
    tag = stage.image("team/alerts:latest")
    code, out, err = stage.keeld.ctl("hold", tag, "--reason", "to be counted")
    assert code == 0, out + err
    stage.pull("team/alerts")
    stage.kube.create(deployment("alerts", "vain", stage.image("team/alerts:absent"), replicas=0))

    def alert():
        """Jobs whose alert is pending; other suites of this stage leave watches of other states."""
        pending = prometheus.query('ALERTS{alertname="KeelWatchCannotFire",state="not-found"}')
        return [one["metric"]["job"] for one in pending]

    try:
        assert wait_for("the alert is pending", alert, 60) == ["keeld"]
        code, out, _ = stage.keeld.ctl("audit", "watches")
        assert code == 1 and "not-found" in out and "Deployment/alerts/vain" in out

        asked = {name for rule in rules() for name in METRIC.findall(rule["expr"])}
        boards = panels()
        asked |= {name for expressions in boards.values() for text in expressions for name in METRIC.findall(text)}
        wait_for("all metrics", lambda: asked - prometheus.names() == RARE, 60)
        for title, expressions in boards.items():
            for expression in expressions:
                if RARE & set(METRIC.findall(expression)) or "changes(" in expression:
                    prometheus.query(expression)  # without an error
                else:
                    wait_for(f"{title}: {expression}", lambda asks=expression: prometheus.query(asks), 60)
    finally:
        stage.keeld.ctl("release", tag, "--reason", "counted")
        stage.kube.delete("deployments", "alerts", "vain")
    wait_for("the alert is over", lambda: not alert(), 90)
