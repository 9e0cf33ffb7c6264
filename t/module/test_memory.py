"""Valgrind over the life of one worker: every byte that it reads was written, and what it took it gives back."""

import os
import pathlib
import re
import signal

import pytest
from cache import Cache, digest_of, get

from lab.process import program
from lab.registry import ACCEPT, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, sha256

SUPPRESSIONS = pathlib.Path(__file__).with_name("nginx.supp")


class Checked(Cache):
    stop_signal, stop_deadline = signal.SIGTERM, 120

    def command(self):
        return [program("valgrind"), "--leak-check=full", "--errors-for-leak-kinds=definite", "--show-leak-kinds=definite",
                f"--suppressions={SUPPRESSIONS}", f"--log-file={self.folder}/valgrind.log", "--num-callers=30", "--keep-debuginfo=yes",
                *super().command()]  # fmt: skip


@pytest.mark.skipif("KEEL_SANITIZED" in os.environ, reason="valgrind and AddressSanitizer do not run together")
def test_e3_life_of_a_worker_under_valgrind(tmp_path, faulty):
    """Every kind of answer, tag, page and refusal, twice; then the end of the process. No reload: one process alone does not survive that
    in nginx itself."""
    http = f"proxy_cache_path {tmp_path}/manifests keys_zone=manifests:1m use_temp_path=off;"
    server = f"""location /v2/cached/ {{ proxy_cache manifests; proxy_cache_valid 200 1m; proxy_pass http://registry; }}
                 location /v2/checked/ {{ keel_verify on; proxy_pass http://registry; }}
                 location /v2/other/ {{ proxy_intercept_errors on; error_page 404 = @second; proxy_pass http://registry; }}
                 location @second {{ keel on; keel_registry second.example; proxy_pass http://registry; }}"""
    nginx = Checked(tmp_path / "nginx", faulty.port, main="master_process off;", http=http, server=server)
    nginx.start().wait_ready(120)
    kinds = [
        (200, {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": digest_of(1)}),
        (200, {"Content-Type": OCI_INDEX, "Docker-Content-Digest": "sha512:" + "ab" * 64}),
        (200, {"Content-Type": OCI_MANIFEST, "ETag": f'"{digest_of(1)}"'}),
        (200, {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": "sha256:00"}),
        (200, {"Content-Type": "text/html"}),
        (304, {}),
        (404, {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "x", "Docker-RateLimit-Source": "192.0.2.1"}),
        (429, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}),
        (503, {"Retry-After": "120"}),
    ]
    for turn in range(2):
        for status, headers in kinds:
            faulty.answer = lambda method, path: (status, headers, f"body {turn}".encode())  # noqa: B023
            for repository in ("app", "cached/app", "checked/app", "other/app", "x" * 250):
                for method in ("GET", "HEAD"):
                    nginx.pull(repository, method=method)
            nginx.pull(accept=DOCKER_MANIFEST)
            get(nginx.port, "/v2/app/manifests/latest", headers=[("Accept", kind.strip()) for kind in ACCEPT.split(",")])
            nginx.pull(headers={"If-None-Match": f'"{digest_of(1)}"', "Range": "bytes=0-1"})
            nginx.pull(headers={"If-None-Match": f'W/"{digest_of(1)}"'})
            get(nginx.port, "/v2/APP/manifests/latest", headers=[("Accept", ACCEPT)])
            get(nginx.port, f"/v2/app/blobs/{digest_of(2)}")
        for tag in range(20):
            faulty.tags(**{f"t{tag}": digest_of((tag, turn))})
            nginx.pull("app", f"t{tag}")
        for path in ("status", "metrics", "tags", "tags?limit=3", "tags?since=5&epoch=x", "tags?seen_since=2026-01-01T00:00:00Z",
                     "tags?limit=x", "holds", "other"):  # fmt: skip
            nginx.api(path)
        assert nginx.tag("app", "latest")["digest"] and nginx.counters()["keel_hashed_bodies_total"] > 0
        faulty.answer = lambda method, path: (200, {"Content-Type": OCI_MANIFEST}, b"a body")
        nginx.pull("app", "hashed", "GET")
        assert nginx.tag("app", "hashed")["digest"] == sha256(b"a body")
    nginx.stop()
    report = (nginx.folder / "valgrind.log").read_text()
    errors = re.findall(r"ERROR SUMMARY: (\d+) errors", report)
    assert errors and set(errors) == {"0"}, report[-8000:]
    assert not nginx.complaints()
