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


# What core may use beside the standard library, whose headers have neither a dot nor a slash.
CORE_HEADERS = {"tl/expected.hpp", "jansson.h", "pcre2.h", "fcntl.h", "unistd.h", "sys/stat.h"}
COMMENTS_AND_TEXTS = r"//[^\n]*|/\*.*?\*/|\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)+'"
CLOCKS = r"\b\w+_clock\s*::\s*now\b|\b(?:time|clock|ftime|gettimeofday|clock_gettime|timespec_get)\s*\("


def complaints_about_core(text):
    found = []
    for include in re.findall(r'^\s*#\s*include\s*([<"][^>"]+)', text, re.MULTILINE):
        header = include[1:]
        if include.startswith('"'):
            fine = header.startswith("core/")
        else:
            fine = header in CORE_HEADERS or header.startswith("openssl/") or not re.search(r"[./]", header)
        if not fine:
            found.append(f"may not include {header}")
    code = re.sub(COMMENTS_AND_TEXTS, '""', text, flags=re.DOTALL)
    return found + [f"reads a clock: {call}" for call in re.findall(CLOCKS, code)]


@pytest.mark.parametrize("path", sources("core"), ids=name)
def test_core_stands_alone(path):
    """core knows no nginx, curl, asio, SQLite, and no clock: time comes in from outside."""
    assert complaints_about_core(path.read_text()) == []


@pytest.mark.parametrize("line", [
    '#include <ngx_core.h>', '#include <curl/curl.h>', '#include <boost/asio.hpp>', '  # include <sqlite3.h>', '#include <time.h>',
    '#include "keeld/config.h"', '#include "digest.h"', 'auto t = std::chrono::system_clock::now();', 'steady_clock :: now()',
    '::time(nullptr);', 'x = time( 0 );', 'gettimeofday(&tv, nullptr);', '/* it\'s */ f("\\""); g(\'"\'); time(0);',
])  # fmt: skip
def test_core_is_not_let_get_away_with(line):
    assert len(complaints_about_core(f"#include <string>\n{line}\n")) == 1


@pytest.mark.parametrize("line", [
    '#include "core/digest.h"', '#include <chrono>', '#include <openssl/evp.h>', '#include <tl/expected.hpp>', '// time(nullptr)',
    '/* system_clock::now()\n time(0) */', 'f("time(0)");', 'parse_time(text);', 'format_time(time);', "is(':', 'x');",
])  # fmt: skip
def test_core_may(line):
    assert complaints_about_core(f"#include <string>\n{line}\n") == []


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
