"""Promises of the tree itself."""

import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_ci_runs_what_the_readme_says():
    """.ci/run is `make test`, the README's test command, and nothing else."""
    commands = [line for line in (ROOT / ".ci/run").read_text().splitlines() if not line.startswith("#")]
    assert commands == ["cd \"$(dirname \"$0\")/..\" && exec make test"]
    readme = ROOT / "README.md"
    assert "make test" in readme.read_text() and "make demo" in readme.read_text()


def test_packages_are_there_and_cost_a_query_only():
    """The second time the dependencies cost one look, and there is nothing to install."""
    done = subprocess.run(
        [ROOT / ".ci/deps", "missing", "build", "unit", "fuzz", "lab"],
        stdout=subprocess.PIPE, text=True, timeout=5, check=True,
    )  # fmt: skip
    assert done.stdout == ""


def test_backports_come_from_the_machines_own_mirror():
    done = subprocess.run([ROOT / ".ci/deps", "backports-list"], stdout=subprocess.PIPE, text=True, check=True)
    main, backports = done.stdout.splitlines()
    assert main.startswith("deb ") and backports == re.sub(r" (\S+) main$", r" \1-backports main", main)


def test_nothing_is_left_for_later():
    """No notes to ourselves in what is tracked."""
    word = "TO" + "DO|FIX" + "ME|XX" + "X"
    found = subprocess.run(
        ["git", "-c", "safe.directory=*", "-C", ROOT, "grep", "-nIE", rf"\b({word})\b", "--", ":!t/data", ":!t/k8s/go.sum"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 1, found.stdout + found.stderr
