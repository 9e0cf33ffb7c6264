"""E3: nginx's own tests fail with the module loaded and on exactly where they fail without it."""

import fnmatch
import tempfile

from conformance.nginx_tests import Suite

from lab.third_party import source

# What `make test` runs: where answers go through upstreams, filters and sub-requests. The rest is for `make conformance`.
QUICK = ["addition*.t", "auth_request*.t", "charset*.t", "gunzip*.t", "gzip*.t", "http_headers*.t", "http_method.t", "mirror*.t",
         "not_modified*.t", "proxy_cache_[a-k]*.t", "proxy_[e-k]*.t", "proxy_[nr]*.t", "range*.t", "rewrite*.t", "slice*.t", "ssi*.t",
         "stub_status.t", "subrequest*.t"]  # fmt: skip


def test_e3_nginx_fails_where_it_fails_without_the_module(everything, tell):
    tests = source("nginx-tests")
    names = sorted(path.name for path in tests.glob("*.t"))
    if not everything:
        names = [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in QUICK)]
    with tempfile.TemporaryDirectory(prefix="ngx-keel-") as folder:
        results, differing = Suite(tests, folder).compare(names)
    plain = [pair[0] for pair in results.values()]
    failing = sorted(name for name, pair in results.items() if pair[0].bad)
    tell(f"nginx's tests: {len(names)} files, {sum(one.passed for one in plain)} tests passed, {sum(one.skipped for one in plain)} files "
         f"not for this nginx, {len(failing)} failing without the module, {len(differing)} that differ with it")  # fmt: skip
    tell(f"nginx's tests that fail without the module: {' '.join(failing) or 'none'}")
    assert sum(one.passed for one in plain) > 300
    assert {name: results[name] for name in differing} == {}
