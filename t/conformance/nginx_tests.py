"""nginx's own tests, each run with the plain nginx and with the module loaded and on: what fails in which."""

import concurrent.futures
import dataclasses
import os
import pathlib
import re
import signal
import subprocess

from lab.nginx import build
from lab.process import program

DEADLINE = 300  # seconds for one file


@dataclasses.dataclass(frozen=True)
class Result:
    """What one file of tests said."""

    passed: int
    failed: frozenset  # "number name"
    skipped: bool
    died: bool  # without having said all that it wanted to, or not in time

    @property
    def bad(self):
        return bool(self.failed) or self.died


def parse(tap, code):
    """Of the Test Anything Protocol; what a test expects to fail and what it leaves out count as passed."""
    plan, passed, failed = None, 0, set()
    for line in tap.splitlines():
        if found := re.match(r"1\.\.(\d+)", line):
            plan = int(found[1])
        elif found := re.match(r"(not )?ok\b ?(\d*) ?(?:- )?([^#]*)(# *(?:todo|skip))?", line, re.IGNORECASE):
            if not found[1] or found[4]:
                passed += 1
            else:
                failed.add(f"{found[2]} {found[3].strip()}")
    return Result(passed, frozenset(failed), plan == 0, plan is None or passed + len(failed) != plan or code > 254)


class Suite:
    def __init__(self, source, folder, nginx=None):
        self.source = source
        self.folder = pathlib.Path(folder)
        self.nginx = nginx or program("nginx")
        # Debian's names the modules that it could load; tests take them for loaded.
        self.binary = self.folder / "nginx"
        self.binary.write_text(f"""#!/bin/sh
case "$*" in
-V) {self.nginx} -V 2>&1 | sed -E 's/--with-[a-z0-9_]+=dynamic//g' >&2 ;;
*) exec {self.nginx} "$@" ;;
esac
""")
        self.binary.chmod(0o755)

    def environment(self, module):
        user = "user root;" if os.getuid() == 0 else ""
        env = {**os.environ, "TEST_NGINX_BINARY": str(self.binary), "TEST_NGINX_GLOBALS": user, "LC_ALL": "C", "TMPDIR": str(self.folder)}
        if module:
            env["TEST_NGINX_GLOBALS"] = f"{user} load_module {build()}/ngx_keel_module.so;"
            env["TEST_NGINX_GLOBALS_HTTP"] = "keel_zone zone=keel:1m; keel on; keel_registry registry.example;"
        return env

    def run(self, name, module):
        test = subprocess.Popen(["perl", name], cwd=self.source, env=self.environment(module), stdout=subprocess.PIPE,
                                stderr=subprocess.DEVNULL, text=True, errors="replace", start_new_session=True)  # fmt: skip
        try:
            tap, _ = test.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            os.killpg(test.pid, signal.SIGKILL)  # the session that this test began
            tap, _ = test.communicate()
            return Result(0, frozenset(["took too long"]), False, True)
        return parse(tap, test.returncode)

    def pair(self, name):
        """(plain, with the module), one right after the other."""
        return self.run(name, False), self.run(name, True)

    def compare(self, names, at_once=None):
        """({name: (plain, with the module)}, names whose failures differ also after three more runs of both).

        More at once than there are processors: tests wait for time to pass more than they compute.
        """
        with concurrent.futures.ThreadPoolExecutor(at_once or 2 * os.cpu_count()) as pool:
            results = dict(zip(names, pool.map(self.pair, names)))
        differing = []
        for name, pair in results.items():
            for _ in range(3):
                if same(*pair):
                    break
                pair = results[name] = self.pair(name)
            if not same(*pair):
                differing.append(name)
        return results, differing


def same(plain, module):
    return (plain.failed, plain.skipped, plain.died) == (module.failed, module.skipped, module.died)
