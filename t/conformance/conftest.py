"""What proves that the module changes nothing. KEEL_CONFORMANCE=all (make conformance): all of it; otherwise what takes
some minutes. What was counted is told at the end.
"""

import os

import pytest

from lab import third_party

ALL = os.environ.get("KEEL_CONFORMANCE") == "all"
NEEDS = {"test_oci.py": "distribution-spec-conformance", "test_nginx.py": "nginx-tests"}
MISSING = {test: name for test, name in NEEDS.items() if not third_party.there(name)}

# Not collected, and so not skipped: they are others' and nothing that a checkout has to have.
collect_ignore = list(MISSING)
_lines = [f"{name}.tar.xz is not in {third_party.archives()}: {test} does not run" for test, name in MISSING.items()]


def pytest_configure():
    if ALL and MISSING:
        raise pytest.UsageError("; ".join(_lines) + ". Set KEEL_THIRD_PARTY to their folder; `t/run conformance` runs what needs none of them.")


@pytest.fixture(scope="session")
def tell():
    """tell(line): a line for the end of the run."""
    return _lines.append


@pytest.fixture(scope="session")
def everything():
    return ALL


def pytest_terminal_summary(terminalreporter):
    for line in _lines:
        terminalreporter.write_line(f"conformance: {line}")
