"""Directives: what nginx -t says about wrong ones, and what is inherited."""

import os
import re
import stat
import subprocess

import pytest
from cache import REGISTRY, Cache, digest_of, push, secret_line

from lab.nginx import ROOT, build
from lab.process import program
from lab.wait import wait_for

COMPANION = "keel_cache_name c; keel_companion http://127.0.0.1:1/"


def check(tmp_path, http, server="", location="", main=""):
    """nginx -t with these lines; (exit code, what it says). Directives stand alone on their lines."""
    config = tmp_path / "nginx.conf"
    temporary = "".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    config.write_text(f"""{'user root;' if os.getuid() == 0 else ''} load_module {build()}/ngx_keel_module.so; {main}
error_log stderr notice; pid {tmp_path}/pid; events {{}}
http {{ {temporary} access_log off;
{http}
server {{ listen 127.0.0.1:1;
{server}
location /v2/ {{
{location}
}} }} }}
""")
    done = subprocess.run([program("nginx"), "-t", "-p", f"{tmp_path}/", "-e", f"{tmp_path}/error.log", "-c", config],
                          capture_output=True, text=True, timeout=30)  # fmt: skip
    return done.returncode, done.stderr


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret"
    path.write_text(secret_line())
    path.chmod(0o600)
    return path


ZONE = "keel_zone zone=keel:1m state=kept;"
WRONG = {
    # name: (http, server, location, words of the message, line)
    "zone without a size": ("keel_zone zone=keel;", "", "", ['"keel_zone" needs zone=NAME:SIZE'], 4),
    "zone without a name": ("keel_zone zone=:1m;", "", "", ['"keel_zone" needs zone=NAME:SIZE'], 4),
    "zone with a bad size": ("keel_zone zone=keel:lots;", "", "", ['invalid size "lots" in "keel_zone"'], 4),
    "zone too small": ("keel_zone zone=keel:4k;", "", "", ['keel_zone "keel" is too small', "64k is the least"], 4),
    "empty state": ("keel_zone zone=keel:1m state=;", "", "", ['invalid parameter "state=" of "keel_zone"'], 4),
    "zone with an unknown parameter": ("keel_zone zone=keel:1m sync=on;", "", "", ['invalid parameter "sync=on" of "keel_zone"'], 4),
    "two zones in one": ("keel_zone zone=a:1m zone=b:1m;", "", "", ['invalid parameter "zone=b:1m" of "keel_zone"', "once each"], 4),
    "state that is a file": ("keel_zone zone=a:1m state=nginx.conf;", "", "", ['state=', 'nginx.conf of "keel_zone" is no directory'], 4),
    "state below nothing": ("keel_zone zone=a:1m state=no/such/dir;", "", "", ['no/such/dir of "keel_zone" cannot be made'], 4),
    "zone of another module": ("limit_req_zone $uri zone=keel:1m rate=1r/s;\n" + ZONE, "", "", ['"keel" is already declared for a different use'], 5),
    "cache name too long": (ZONE + f"keel_cache_name {'x' * 65};", "", "", ["up to 64 letters"], 4),
    "two zones": (ZONE + "\n" + ZONE, "", "", ['"keel_zone" directive is duplicate'], 5),
    "zone in a server": ("", ZONE, "", ['"keel_zone" directive is not allowed here'], 6),
    "observing without a zone": ("", "keel on;\nkeel_registry docker.io;", "", ['"keel on" in', ":6 needs", '"keel_zone"'], 0),
    "observing without a registry": (ZONE, "keel on;", "", ['"keel on" in', ":6 needs", '"keel_registry"'], 0),
    "observing a location without a registry":
        (ZONE, "", "keel on;", ['"keel on" in', ":8 needs", '"keel_registry" in the same location or around it'], 0),
    "api without a zone": ("", "", "keel_api;", ['"keel_api" in', ":8 needs", '"keel_zone"'], 0),
    "api with an argument": (ZONE, "", "keel_api on;", ['invalid parameter "on" of "keel_api": secret=NAME:FILE is known'], 8),
    "api beside another handler": (ZONE, "", "proxy_pass http://127.0.0.1:2; keel_api;", ['"keel_api" and another handler'], 8),
    "api before another handler": (ZONE, "", "keel_api;\nproxy_pass http://127.0.0.1:2;", ['"keel_api" in', ":8 needs", "another handler"], 0),
    "api in a regex location": (ZONE, "location ~ ^/k/ { keel_api; }", "", ['"keel_api" needs a prefix location'], 6),
    "api in an exact location": (ZONE, "location = /k { keel_api; }", "", ['"keel_api" needs a prefix location'], 6),
    "api in a server": (ZONE, "keel_api;", "", ['"keel_api" directive is not allowed here'], 6),
    "keel maybe": (ZONE, "keel maybe;", "", ['invalid value "maybe" in "keel" directive'], 6),
    "registry that is none": (ZONE, "keel_registry https://docker.io;", "", ['"https://docker.io" in "keel_registry" is no registry'], 6),
    "registry in upper case": (ZONE, "keel_registry Docker.io;", "", ['"Docker.io" in "keel_registry" is no registry'], 6),
    "Docker Hub by another name": (ZONE, "keel_registry index.docker.io;", "", ["docker.io"], 6),
    "registry by variable without names": (ZONE, "keel_registry $arg_ns;", "", ['"keel_registry $arg_ns" depends on the request', "names=A,B"], 6),
    "names for a fixed registry": (ZONE, "keel_registry docker.io names=ghcr.io;", "", ['names= in "keel_registry docker.io"'], 6),
    "empty name": (ZONE, "keel_registry $arg_ns names=docker.io,;", "", ['"" in "keel_registry" is no registry'], 6),
    "registry twice": (ZONE, "keel_registry docker.io;\nkeel_registry ghcr.io;", "", ['"keel_registry" directive is duplicate'], 7),
    "unknown variable": (ZONE, "keel_registry $no_such_thing names=a;", "", ['unknown "no_such_thing" variable'], 0),
    "registry with half a port": (ZONE, "keel_registry docker.io:;", "", ['"docker.io:" in "keel_registry" is no registry'], 6),
    "registry with an empty label": (ZONE, "keel_registry a..b;", "", ['"a..b" in "keel_registry" is no registry'], 6),
    "name that is no registry": (ZONE, "keel_registry $arg_ns names=docker.io,-a;", "", ['"-a" in "keel_registry" is no registry'], 6),
    "verify what": (ZONE, "keel_verify always;", "", ['invalid value "always" in "keel_verify" directive', '"off", "missing" or "on"'], 6),
    "verify twice": (ZONE, "keel_verify on;\nkeel_verify off;", "", ['"keel_verify" directive is duplicate'], 7),
    "node twice": (ZONE, "keel_node a;\nkeel_node b;", "", ['"keel_node" directive is duplicate'], 7),
    "cache name with a slash": (ZONE + "keel_cache_name a/b;", "", "", ['invalid name "a/b" in "keel_cache_name"'], 4),
    "cache name twice": (ZONE + "\nkeel_cache_name a;\nkeel_cache_name b;", "", "", ['"keel_cache_name" directive is duplicate'], 6),
    "companion without a cache name": (ZONE + "keel_companion http://127.0.0.1:1/;", "", "", ['"keel_companion" in', ":4 needs", '"keel_cache_name"'], 0),
    "companion without a zone": (COMPANION + ";", "", "", ['"keel_companion" in', ":4 needs", '"keel_zone"'], 0),
    "companion by ftp": (ZONE + "keel_companion ftp://a/;", "", "", ['"ftp://a/" in "keel_companion" must be an http:// or https:// URL'], 4),
    "companion without a host": (ZONE + "keel_companion http:///x;", "", "", ['"http:///x" in "keel_companion" has no host'], 4),
    "companion with a password": (ZONE + "keel_companion http://u:p@a/;", "", "", ['must not hold a user name or password'], 4),
    "companion with a fragment": (ZONE + "keel_companion http://a/#x;", "", "", ["must not hold a fragment"], 4),
    "companion with white space": (ZONE + 'keel_companion "http://a/b c";', "", "", ["must not hold white space"], 4),
    "companion on a port too high": (ZONE + "keel_companion http://a:65536/;", "", "", ['"http://a:65536/" in "keel_companion" has no host with a port'], 4),
    "companion on a port that is none": (ZONE + "keel_companion http://a:b/;", "", "", ["has no host with a port"], 4),
    "companion on a port alone": (ZONE + "keel_companion http://:1/;", "", "", ["has no host with a port"], 4),
    "companion with half an address": (ZONE + "keel_companion http://[::1/;", "", "", ["has no host with a port"], 4),
    "companion with a ca for http": (ZONE + COMPANION + " ca=/etc/ssl/certs/ca-certificates.crt;", "", "", ["is for https:// only"], 4),
    "companion with a ca that is none": (ZONE + "keel_companion https://a/ ca=nginx.conf;", "", "", ["nginx.conf holds no certificate in PEM form"], 4),
    "companion with a ca that is a directory": (ZONE + "keel_companion https://a/ ca=/;", "", "", ["ca=/ holds no certificate"], 4),
    "companion by a variable": (ZONE + "keel_companion http://$host/;", "", "", ['"http://$host/" in "keel_companion" has a variable for a host'], 4),
    "companion with an empty secret": (ZONE + "keel_companion https://a/ secret=;", "", "", ['invalid parameter "secret=" of "keel_companion"'], 4),
    "companion with an empty ca": (ZONE + "keel_companion https://a/ ca=;", "", "", ['invalid parameter "ca=" of "keel_companion"'], 4),
    "companion with two secrets": (ZONE + "keel_companion https://a/ secret=/a secret=/b;", "", "", ["/a cannot be used"], 4),
    "keel twice": (ZONE, "keel on;\nkeel off;", "", ['"keel" directive is duplicate'], 7),
    "hold twice": (ZONE, "keel_hold on;\nkeel_hold off;", "", ['"keel_hold" directive is duplicate'], 7),
    "hold maybe": (ZONE, "keel_hold maybe;", "", ['invalid value "maybe" in "keel_hold" directive'], 6),
    "holding without a zone": ("", "keel_hold on;", "", ['"keel_hold on" in', ":6 needs", '"keel_zone"'], 0),
    "holding without a directory": ("keel_zone zone=keel:1m state=off;", "keel_hold on;", "", ['"keel_hold on" in', ":6 needs", "state=off"], 0),
    "api twice": (ZONE, "", "keel_api;\nkeel_api;", ['"keel_api" and another handler'], 9),
    "api with a secret of nobody": (ZONE, "", "keel_api secret=:/a;", ['secret= of "keel_api" needs NAME:FILE'], 8),
    "api with a missing secret": (ZONE, "", "keel_api secret=a:/no/such/file;", ['"keel_api": the secret file /no/such/file cannot be used'], 8),
    "api in a named location": (ZONE, "location @x { keel_api; }", "", ['"keel_api" needs a prefix location'], 6),
    "registry with two parameters": (ZONE, "keel_registry $arg_ns names=a names=b;", "", ['invalid number of arguments in "keel_registry"'], 6),
    "registry with an unknown parameter": (ZONE, "keel_registry $arg_ns name=a;", "", ['invalid parameter "name=a" of "keel_registry"'], 6),
    "companion on a relative socket": (ZONE + "keel_companion unix:keeld.sock;", "", "", ["needs an absolute socket path"], 4),
    "companion on a long socket": (ZONE + f"keel_companion unix:/{'x' * 107};", "", "", ["at most 107 bytes"], 4),
    "companion twice": (ZONE + COMPANION + ";\nkeel_companion http://127.0.0.1:1/;", "", "", ["is duplicate: this URL is there already"], 5),
    "companion with an unknown parameter": (ZONE + COMPANION + " retry=5;", "", "", ['invalid parameter "retry=5" of "keel_companion"'], 4),
    "companion with a missing secret": (ZONE + COMPANION + " secret=/no/such/file;", "", "", ["/no/such/file"], 4),
    "companion with a missing ca": (ZONE + COMPANION + " ca=/no/such/ca;", "", "", ["cannot read ca=/no/such/ca"], 4),
    "nine companions": (ZONE + "".join(f"\nkeel_companion http://127.0.0.1:{i}/;" for i in range(1, 10)), "", "", ['at most 8 "keel_companion"'], 13),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_e2_wrong_directive_is_named_with_its_line(tmp_path, case):
    http, server, location, words, line = WRONG[case]
    code, said = check(tmp_path, http, server, location)
    [message] = [text for text in said.splitlines() if "[emerg]" in text]
    assert code == 1
    for word in words:
        assert word in message
    if line:
        assert message.endswith(f"in {tmp_path}/nginx.conf:{line}")
    else:
        assert f"{tmp_path}/nginx.conf" in message or "variable" in message


# A line of each directive that is right where it is allowed.
RIGHT = {
    "keel_zone": "keel_zone zone=keel:1m state=off;",
    "keel_cache_name": "keel_cache_name c;",
    "keel": "keel off;",
    "keel_registry": "keel_registry docker.io;",
    "keel_hold": "keel_hold off;",
    "keel_verify": "keel_verify on;",
    "keel_node": "keel_node $http_x_node;",
    "keel_companion": "keel_companion https://a/;",
    "keel_api": "keel_api;",
}
PLACES = {
    "http": "http { %s }",
    "server": "http { server { listen 127.0.0.1:1; %s } }",
    "location": "http { server { listen 127.0.0.1:1; location /k/ { %s } } }",
    "main": "%s http { }",
    "events": "%s",
    "upstream": "http { upstream u { server 127.0.0.1:1; %s } }",
    "limit_except": "http { server { listen 127.0.0.1:1; location /k/ { limit_except GET { %s } } } }",
    "if": "http { server { listen 127.0.0.1:1; location /k/ { if ($arg_a) { %s } } } }",
}


def documented():
    """{directive: contexts} as doc/directives.md has them."""
    found = {}
    for part in (ROOT / "doc/directives.md").read_text().split("\n## ")[1:]:
        if context := re.search(r"^\| Context \| *(.*?) *\|$", part, re.MULTILINE):
            name = part.splitlines()[0]
            assert re.search(rf"^\| Syntax  \| `{name}\b.*;` *\|$", part, re.MULTILINE), name
            assert re.search(r"^\| Default \| \S", part, re.MULTILINE), name
            found[name] = set(re.findall(r"`(\w+)`", context[1]))
    return found


def test_every_directive_is_documented():
    source = (ROOT / "ngx_keel_module.cpp").read_text()
    assert set(re.findall(r'ngx_string\("(keel\w*)"\)', source)) == set(documented()) == set(RIGHT)


@pytest.mark.parametrize("directive", RIGHT)
def test_a_directive_is_allowed_where_the_documentation_says_and_nowhere_else(tmp_path, directive):
    for place, around in PLACES.items():
        zone = "" if directive == "keel_zone" else "keel_zone zone=keel:1m state=kept;"
        name = "" if directive == "keel_cache_name" else "keel_cache_name c;"
        text = (around % ("\n" + RIGHT[directive] + "\n")).replace("http {", f"http {{ access_log off; {zone} {name}", 1)
        events = "events { }" if place != "events" else f"events {{ {text} }} http {{ }}"
        config = tmp_path / "nginx.conf"
        config.write_text(f"load_module {build()}/ngx_keel_module.so; pid {tmp_path}/pid; error_log stderr; {events} {text if place != 'events' else ''}")
        done = subprocess.run([program("nginx"), "-t", "-p", f"{tmp_path}/", "-e", f"{tmp_path}/error.log", "-c", config],
                              capture_output=True, text=True, timeout=30)  # fmt: skip
        emerg = [line for line in done.stderr.splitlines() if "[emerg]" in line]
        refused = [line for line in emerg if f'"{directive}" directive is not allowed here in {config}:2' in line]
        if place in documented()[directive]:
            assert emerg == [], (place, emerg)
        else:
            assert refused, (place, done.stderr)


def test_e2_secret_that_others_may_read(tmp_path, secret):
    secret.chmod(0o644)
    code, said = check(tmp_path, ZONE + COMPANION + f" secret={secret};")
    assert code == 1 and str(secret) in said and "keel_companion" in said


@pytest.mark.parametrize("text", ["", "hunter2\n", "whsec_c2hvcnQ=\n", secret_line() + "whsec_***\n"])
def test_e2_bad_secret_is_named_and_not_shown(tmp_path, secret, text):
    secret.write_text(text)
    code, said = check(tmp_path, ZONE + COMPANION + f" secret={secret};")
    assert code == 1 and f'secret file "{secret}"' in said
    assert "hunter2" not in said and "c2hvcnQ" not in said


def test_relative_secret_lies_beside_the_configuration(tmp_path, secret):
    code, said = check(tmp_path, ZONE + COMPANION + " secret=secret;")
    assert (code, "[emerg]" in said) == (0, False)


def test_companion_without_a_secret_is_warned_about(tmp_path):
    code, said = check(tmp_path, ZONE + COMPANION + ";")
    assert code == 0
    assert re.search(r"\[warn\].*has no secret=FILE: its events are not signed", said)


@pytest.mark.parametrize("state, made", [("state=kept", "kept"), ("state=kept/", "kept"), ("", "keel"), ("state=off", None)])
def test_state_directory_is_made_for_the_workers_alone(tmp_path, state, made):
    """Below the prefix, `keel` where nothing is said; none with off. nginx -t writes nothing into it."""
    code, said = check(tmp_path, f"keel_zone zone=keel:1m {state};")
    assert (code, "[warn]" in said) == (0, False)
    kept = [path for path in (tmp_path / "kept", tmp_path / "keel") if path.exists()]
    assert kept == ([tmp_path / made] if made else [])
    for path in kept:
        assert (stat.S_IMODE(path.stat().st_mode), list(path.iterdir())) == (0o700, [])


def test_publisher_belongs_beside_the_module(tmp_path):
    """A module that was copied alone says what is missing."""
    alone = tmp_path / "ngx_keel_module.so"
    alone.write_bytes((build() / "ngx_keel_module.so").read_bytes())
    config = tmp_path / "nginx.conf"
    config.write_text(f"load_module {alone}; pid {tmp_path}/pid; events {{}}\nhttp {{ {ZONE}\n{COMPANION};\n}}")
    done = subprocess.run([program("nginx"), "-t", "-p", f"{tmp_path}/", "-e", f"{tmp_path}/error.log", "-c", config],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 1
    assert f'"keel_companion" needs "{tmp_path}/ngx_keel_publisher.so", which belongs beside the module' in done.stderr
    assert f"{config}:3" in done.stderr


def test_loaded_and_unused_it_changes_nothing(tmp_path):
    assert check(tmp_path, "")[0] == 0


def test_configuration_test_leaves_no_trace(cache, faulty, receiver):
    """nginx -t beside a running nginx: same descriptors, same table, no helper."""
    nginx = cache(faulty.port, companion=receiver.url)
    faulty.tags(latest=digest_of(1))
    nginx.pull("app")
    wait_for("all processes", lambda: nginx.helper() and len(nginx.workers_now()) == 2)
    before = nginx.api("status")[1]["epoch"], nginx.children()
    done = subprocess.run([*map(str, nginx.command()), "-t"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (nginx.api("status")[1]["epoch"], nginx.children()) == before


def test_inner_settings_win(cache, upstream, repository):
    """keel, keel_registry and keel_node go from http to server to location, as nginx' own do."""
    server = """location /v2/test/ { proxy_pass http://registry; keel_registry inner.example; }
                location /v2/quiet/ { proxy_pass http://registry; keel off; }"""
    nginx = cache(http="keel on; keel_registry outer.example; keel_node outer;", observe="", server=server, location="keel_node inner;")
    for name in (repository, f"quiet/{repository}", f"plain/{repository}"):
        push(upstream, name, "latest", "one")
        nginx.pull(name)
    assert {tag: state["node"] for tag, state in nginx.tags().items()} == {
        f"inner.example/{repository}:latest": "outer",
        f"outer.example/plain/{repository}:latest": "inner",
    }


def test_two_caches_beside_each_other(tmp_path, upstream, repository):
    """Each has its own zone and epoch."""
    push(upstream, repository, "latest", "one")
    with Cache(tmp_path / "a", upstream.port) as one, Cache(tmp_path / "b", upstream.port) as two:
        one.pull(repository)
        assert list(one.tags()) == [f"{REGISTRY}/{repository}:latest"]
        assert two.tags() == {}
        assert one.api("status")[1]["epoch"] != two.api("status")[1]["epoch"]
