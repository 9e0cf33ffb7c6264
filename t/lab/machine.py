"""What a node changes on the machine, and how it is put back.

kubelet sets sysctls, the ptp plugin turns on forwarding; both, containerd and runc leave folders, interfaces,
mounts and cgroups where they are stopped badly. A `Machine` is held for as long as a lab with a node
runs; labs may overlap, then the last one restores what the first one found.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import random
import re
import signal
import subprocess

from .process import program, run
from .wait import NotYet, wait_for

# What kubelet and the ptp plugin write.
SYSCTLS = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "net/ipv4/ip_forward",
]
# Paths that kubelet, containerd and libcni have built in.
PATHS = [
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/run/containerd",
    "/run/netns",
    "/etc/cni",
    "/opt/cni",
    "/opt/containerd",
    "/usr/libexec/kubernetes",
]
# Values that move by themselves.
UNSTEADY = ("kernel/random/", "kernel/ns_last_pid", "kernel/pty/nr", "fs/", "kernel/perf_event", "kernel/keys/gc",
            "kernel/sched", "net/netfilter/nf_conntrack_", "net/ipv4/conf/veth", "net/ipv6/conf/veth",
            "net/ipv4/neigh/veth", "net/ipv6/neigh/veth", "net/ipv4/conf/cni", "vm/stat_refresh",
            "vm/compact_memory", "vm/drop_caches", "net/ipv4/route/flush", "net/ipv6/route/flush",
            "sunrpc/", "abi/")  # fmt: skip

CONTROLLERS = pathlib.Path("/sys/fs/cgroup")
CGROUP = "k8s.io"  # containerd's own, where kubelet names no parent


def mounts():
    """Mount points, in the order in which they were mounted."""
    lines = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4].encode().decode("unicode_escape") for line in lines]


def read_sysctls():
    """Every readable sysctl that does not move by itself."""
    root = pathlib.Path("/proc/sys")
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = pathlib.Path(folder, name)
            key = str(path.relative_to(root))
            if key.startswith(UNSTEADY):
                continue
            with contextlib.suppress(OSError, UnicodeDecodeError):
                found[key] = path.read_text().strip()
    return found


def cgroups():
    found = set()
    for folder, names, _ in os.walk(CONTROLLERS):
        found.update(os.path.relpath(os.path.join(folder, name), CONTROLLERS) for name in names)
    return found


def snapshot():
    """The state that a node may change, to be compared with a later one.

    On a machine in use other things come and go meanwhile: sessions, services, containers of others. So of
    mounts, cgroups, interfaces, routes and shims only the kinds count that kubelet, containerd and libcni make.
    """
    ip = program("ip")
    interfaces = [link["ifname"] for link in json.loads(run(ip, "-j", "link"))]
    return {
        "sysctls": read_sysctls(),
        "mounts": sorted(point for point in mounts() if "ngx-keel" in point or point.startswith(tuple(PATHS))),
        "cgroups": sorted(name for name in cgroups() if {CGROUP, "kubepods"} & set(name.split("/"))),
        "interfaces": sorted(name for name in interfaces if re.fullmatch("veth[0-9a-f]{8}|cni[0-9]+", name)),
        "routes": sorted(line for line in run(ip, "route").splitlines() if line.startswith(("198.18.", "198.19."))),
        "network namespaces": sorted(line for line in run(ip, "netns").splitlines() if line.startswith("cni-")),
        "paths": [path for path in PATHS if os.path.exists(path)],
        "shims": sorted(shims(CGROUP)),
    }


def differences(before, after):
    """What is not as it was, one line each."""
    found = []
    for name, old in before.items():
        new = after[name]
        if isinstance(old, dict):
            for key in sorted(old.keys() & new.keys()):
                if old[key] != new[key]:
                    found.append(f"{name}: {key} was {old[key]!r}, is {new[key]!r}")
        else:
            found += [f"{name}: {item} is new" for item in new if item not in old]
            found += [f"{name}: {item} is gone" for item in old if item not in new]
    return found


def shims(word):
    """Process ids of containerd's shims with that word in their command line: a socket, or a namespace."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if os.path.basename(words[0]).startswith("containerd-shim") and word in words:
                found.append(int(entry.name))
    return found


def unmount_below(folder):
    """Unmounts what is mounted below a folder of the lab's own, last first."""
    for point in reversed(mounts()):
        if point.startswith(f"{folder}/"):
            subprocess.run([program("umount"), "-l", point], stderr=subprocess.DEVNULL, check=False)


def hierarchies(name):
    """The folders of a cgroup: one with cgroup v2, one for each controller with v1."""
    return [top / name for top in [CONTROLLERS, *CONTROLLERS.iterdir()] if (top / name).is_dir()]


def remove_cgroup(name):
    """Ends what is left in the cgroup of a container of the lab's own, and removes it."""
    tops = hierarchies(name)

    def processes():
        found = set()
        for top in tops:
            for procs in top.rglob("cgroup.procs"):
                with contextlib.suppress(OSError):
                    found.update(map(int, procs.read_text().split()))
        return found

    for pid in processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(NotYet):
        wait_for(f"cgroup {name} empty", lambda: not processes(), 5)
    for top in tops:
        for folder in sorted(top.rglob("*"), reverse=True):
            if folder.is_dir():
                with contextlib.suppress(OSError):
                    folder.rmdir()
        with contextlib.suppress(OSError):
            top.rmdir()


def free_subnet():
    """A /24 of the range for benchmarks (RFC 2544) that no route of this machine mentions."""
    used = run(program("ip"), "route", "show", "table", "all")
    while True:
        subnet = f"198.{random.choice((18, 19))}.{random.randrange(256)}"
        if f"{subnet}." not in used:
            return subnet


def remove_interfaces(subnet):
    """Removes the pods' ends of links that a route into the lab's own subnet goes through."""
    for route in run(program("ip"), "route").splitlines():
        words = route.split()
        if words[0].startswith(f"{subnet}.") and "dev" in words:
            device = words[words.index("dev") + 1]
            subprocess.run([program("ip"), "link", "delete", device], stderr=subprocess.DEVNULL, check=False)


class Machine:
    """Held while a node runs: with Machine() as machine: ... ; `alone` tells whether no other lab ran at the end."""

    def __init__(self, folder="/run/ngx-keel-lab"):
        self.folder = pathlib.Path(folder)
        self.saved = self.folder / "found.json"
        self.lock = None
        self.alone = True

    def _exclusive(self):
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False

    def __enter__(self):
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self.lock = open(self.folder / "lock", "w")
        # What an earlier lab found and could not put back, because it was killed, is what counts.
        if self._exclusive() and not self.saved.exists():
            found = {
                "sysctls": {name: pathlib.Path("/proc/sys", name).read_text().strip() for name in SYSCTLS},
                "paths": [path for path in PATHS if os.path.exists(path)],
                "cgroup": bool(hierarchies(CGROUP)),
            }
            self.saved.write_text(json.dumps(found))
        fcntl.flock(self.lock, fcntl.LOCK_SH)
        return self

    def __exit__(self, *_):
        self.alone = self._exclusive()
        if self.alone and self.saved.exists():
            found = json.loads(self.saved.read_text())
            for name, value in found["sysctls"].items():
                path = pathlib.Path("/proc/sys", name)
                if path.read_text().strip() != value:
                    path.write_text(value)
            for path in PATHS:
                if path not in found["paths"] and os.path.isdir(path):
                    remove_tree(path)
            if not found["cgroup"]:
                for top in hierarchies(CGROUP):
                    with contextlib.suppress(OSError):
                        top.rmdir()
            self.saved.unlink()
        self.lock.close()


def remove_tree(path):
    """Removes a folder that was not there before, unless something is mounted in it."""
    if not any(point == path or point.startswith(f"{path}/") for point in mounts()):
        subprocess.run(["rm", "-rf", "--one-file-system", path], check=False)
