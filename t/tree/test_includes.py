"""Who may include whom: the parts of the tree keep to their place."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SRC = ROOT / "src"

# A folder of keeld includes those before it in this order, never those after it. ledger and notify stand
# aside: everybody may write to them. http and the files directly in keeld are what all stand on.
ORDER = ["http", "cache", "registry", "cluster", "catalogue", "policy", "rollout", "api"]
PEERS = {"cache", "registry", "cluster"}  # one level; none of them needs another
ASIDE = {"ledger", "notify"}
TOP = {"main.cc", "daemon.cc", "daemon.h"}  # where everything is put together


def sources(folder):
    return sorted(path for path in (SRC / folder).rglob("*") if path.suffix in (".h", ".cc", ".cpp"))


def includes(path):
    return re.findall(r'^\s*#\s*include\s*([<"][^>"]+[>"])', path.read_text(), re.MULTILINE)


def name(path):
    return str(path.relative_to(SRC)) if isinstance(path, pathlib.Path) else "none"


@pytest.mark.parametrize("path", sources("core"), ids=name)
def test_core_stands_alone(path):
    """core knows no nginx, curl, asio, SQLite, and no clock: time comes in from outside."""
    for include in includes(path):
        if include.startswith('"'):
            assert include.startswith('"core/'), f"{include} is not core's"
        assert not re.match(r"<(ngx_|nginx|curl/|boost/|sqlite3|asio|yaml-cpp|spdlog|prometheus)", include), include
    clocks = re.findall(r"\b(?:system_clock|steady_clock)::now|\bclock_gettime\b|\bgettimeofday\b|\btime\(nullptr\)",
                        path.read_text())  # fmt: skip
    assert not clocks, f"reads a clock: {clocks}"


@pytest.mark.parametrize("path", sources("module"), ids=name)
def test_module_includes_core_only(path):
    """Of ours; and libcurl only in the publisher, which nginx's helper process alone opens."""
    for include in includes(path):
        if include.startswith('"'):
            assert include.startswith(('"core/', '"module/')), f"{include} is neither core's nor the module's"
        if include.startswith("<curl/"):
            assert path.name.startswith("publisher"), f"{include} outside of the publisher"


@pytest.mark.parametrize("path", sources("keelctl"), ids=name)
def test_keelctl_speaks_http_only(path):
    """keelctl knows keeld by its API, not by its parts."""
    for include in includes(path):
        if include.startswith('"'):
            assert include.startswith(('"core/', '"keelctl/')), f"{include} is neither core's nor keelctl's"


def allowed(own, other):
    """May a file of keeld's folder `own` include one of folder `other`? "" is keeld itself."""
    if other in ("", own):
        return True
    if own == "":
        return False
    if other in ASIDE:
        return True
    if own in ASIDE:
        return other == "http"
    if own in PEERS and other in PEERS:
        return False
    return ORDER.index(other) < ORDER.index(own)


@pytest.mark.parametrize("path", sources("keeld"), ids=name)
def test_keeld_includes_downwards(path):
    inner = path.relative_to(SRC / "keeld")
    if str(inner) in TOP:
        return
    own = inner.parts[0] if len(inner.parts) > 1 else ""
    for include in includes(path):
        if include.startswith('"'):
            assert include.startswith(('"core/', '"keeld/')), f"{include} is neither core's nor keeld's"
        if include.startswith('"keeld/'):
            parts = include.strip('"').split("/")
            other = parts[1] if len(parts) > 2 else ""
            assert allowed(own, other), f"{own or 'keeld'} may not include {include}"


def test_every_folder_is_known():
    """A new folder of keeld has to find its place in the order above."""
    folders = {path.name for path in (SRC / "keeld").iterdir() if path.is_dir()}
    assert folders <= {*ORDER, *ASIDE}
