"""E3: the conformance suite of the OCI distribution specification says of a registry behind nginx with the module what it
says without the module. (Of Debian's docker-registry it does not say that it conforms.)
"""

import collections
import concurrent.futures
import os
import subprocess
import xml.etree.ElementTree

from module.cache import Cache

from lab.registry import Registry
from lab.third_party import go_program, source


def run_suite(folder, port):
    """({(test, outcome): how often}, the sums of what they consist of), as the suite's own report has it."""
    done = subprocess.run(
        [go_program(source("distribution-spec-conformance") / "conformance", "oci-conformance")],
        cwd=folder, capture_output=True, text=True, timeout=300,
        env={**{key: value for key, value in os.environ.items() if not key.startswith("OCI_")},
             "OCI_REGISTRY": f"127.0.0.1:{port}", "OCI_TLS": "disabled", "OCI_REPO1": "conformance/one",
             "OCI_REPO2": "conformance/two", "OCI_VERSION": "1.1", "OCI_RESULTS_DIR": str(folder / "results")},
    )  # fmt: skip
    report = folder / "results/junit.xml"
    assert report.exists(), done.stdout[-2000:] + done.stderr[-2000:]
    root = xml.etree.ElementTree.parse(report).getroot()
    # Tests of one name come in any order.
    results = collections.Counter((case.get("name"), case.get("status")) for case in root.iter("testcase"))
    return results, {key: int(root.get(key)) for key in ("tests", "failures", "skipped", "disabled")}


def test_e3_a_registry_conforms_as_much_with_the_module_as_without(tmp_path, tell):
    def side(name, module):
        with Registry(tmp_path / name / "registry", "registry") as registry:
            with Cache(tmp_path / name / "nginx", registry.port, module=module, server="proxy_request_buffering off;") as nginx:
                results = run_suite(tmp_path / name, nginx.port)
                assert not nginx.complaints()
                return *results, nginx.uncounted() if module else {}

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        (with_it, sums_with, seen), (without, sums, _) = pool.map(side, ("with", "without"), (True, None))
    assert sum(seen.values()) > 10  # the module looked at them; the suite accepts too little for an observation
    assert sums["tests"] > 800 and sum(without.values()) > 600
    differing = (with_it - without) + (without - with_it)
    passed = sums["tests"] - sums["failures"] - sums["skipped"] - sums["disabled"]
    tell(f"OCI distribution: {sums['tests']} tests, {passed} passed, {sums['failures']} failed, {sums['skipped']} skipped, "
         f"{sums['disabled']} disabled without the module; {sum(differing.values())} of {sum(without.values())} results differ with it")  # fmt: skip
    assert not differing and sums_with == sums
