"""A node: containerd and a kubelet, both with everything in the lab's own folder."""

import base64
import contextlib
import json
import os
import pathlib
import urllib.request

import yaml

from . import machine
from .kubernetes import binary
from .ports import free_port
from .process import Server, program, run
from .wait import NotYet, wait_for


class Containerd(Server):
    name = "containerd"

    def __init__(self, folder, subnet, pause, mirrors):
        """pause: image of a pod's sandbox. mirrors: {registry: URL of the cache that serves it}."""
        super().__init__(folder)
        self.subnet, self.pause = subnet, pause
        self.state = self.folder / "state"
        self.tasks = self.state / "io.containerd.runtime.v2.task/k8s.io"
        self.socket = self.folder / "containerd.sock"
        self._write(mirrors)

    def _write(self, mirrors):
        certs = self.folder / "certs.d"
        for registry, cache in mirrors.items():
            (certs / registry).mkdir(parents=True, exist_ok=True)
            (certs / registry / "hosts.toml").write_text(
                f'server = "{cache}"\n[host."{cache}"]\n  capabilities = ["pull", "resolve"]\n'
            )
        net = self.folder / "cni"
        net.mkdir(exist_ok=True)
        (net / "lab.conflist").write_text(
            json.dumps(
                {
                    "cniVersion": "0.4.0",
                    "name": f"lab-{self.subnet}",
                    "plugins": [
                        {
                            "type": "ptp",
                            "ipMasq": False,
                            "ipam": {
                                "type": "host-local",
                                "ranges": [[{"subnet": f"{self.subnet}.0/24"}]],
                                "dataDir": str(self.folder / "addresses"),
                            },
                        }
                    ],
                }
            )
        )
        # oom_score_adj: some environments do not let it be lowered, and then no sandbox would start.
        self.config = self.folder / "containerd.toml"
        self.config.write_text(
            f"""version = 2
root = "{self.folder}/root"
state = "{self.state}"
[grpc]
  address = "{self.socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{self.folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{self.pause}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  disable_tcp_service = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{net}"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{certs}"
"""
        )

    def command(self):
        return [program("containerd"), "--config", self.config]

    def environment(self):
        sbin = os.pathsep.join([super().environment().get("PATH", ""), "/usr/sbin", "/sbin"])
        return {**super().environment(), "PATH": sbin}

    def ready(self):
        return self.socket.exists() and bool(self.ctr("version"))

    def ctr(self, *words, deadline=20.0):
        return run(program("ctr"), "--address", self.socket, "--namespace", "k8s.io", *words, deadline=deadline)

    def containers(self):
        """What CRI knows about the running containers of pods: a list of dicts.

        namespace, pod, container: names. config: digest of the image's config, its identity. digest: what the tag
        answered when that image was pulled (index or manifest). id: the container's.
        """
        images = {}
        for line in self.ctr("images", "list").splitlines()[1:]:
            name, _, digest, *_ = line.split()
            images[name] = digest
        tasks = {words[0] for words in map(str.split, self.ctr("tasks", "list").splitlines()[1:]) if "RUNNING" in words}
        found = []
        for identity in self.ctr("containers", "list", "--quiet").split():
            if identity not in tasks:
                continue
            info = json.loads(self.ctr("containers", "info", identity))
            labels = info.get("Labels") or {}
            if labels.get("io.cri-containerd.kind") != "container":
                continue
            # The image's name is the tag, which may have moved since; CRI's own record has what it was made of.
            record = info["Extensions"]["io.cri-containerd.container.metadata"]["value"]
            config = json.loads(base64.b64decode(record))["Metadata"]["Config"]["image"]["image"]
            found.append(
                {
                    "namespace": labels["io.kubernetes.pod.namespace"],
                    "pod": labels["io.kubernetes.pod.name"],
                    "container": labels["io.kubernetes.container.name"],
                    "config": config,
                    "digest": images.get(config, ""),
                    "id": identity,
                }
            )
        return found

    def read_file(self, container, path):
        """A file as the container with that id sees it in its root file system."""
        return (self.tasks / container / "rootfs" / path.lstrip("/")).read_text()


class Kubelet(Server):
    name = "kubelet"
    stop_deadline = 10.0

    def __init__(self, folder, node, api, containerd):
        super().__init__(folder)
        self.node, self.api, self.containerd = node, api, containerd
        self.health_port = free_port()
        self.port = free_port()

    def _config(self):
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": "127.0.0.1",
            "port": self.port,
            "readOnlyPort": 0,
            "healthzBindAddress": "127.0.0.1",
            "healthzPort": self.health_port,
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "containerRuntimeEndpoint": f"unix://{self.containerd.socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": False,
            "enforceNodeAllocatable": [],
            "failCgroupV1": False,
            "failSwapOn": False,
            "localStorageCapacityIsolation": False,
            "makeIPTablesUtilChains": False,
            "resolvConf": "",
            "podLogsDir": str(self.folder / "pod-logs"),
            "volumePluginDir": str(self.folder / "volume-plugins"),
            "evictionHard": {"memory.available": "1Mi", "nodefs.available": "0.1%", "imagefs.available": "0.1%"},
            "syncFrequency": "10s",
            "nodeStatusUpdateFrequency": "5s",
            "imageGCHighThresholdPercent": 100,
        }

    def command(self):
        config = self.folder / "kubelet.yaml"
        config.write_text(yaml.safe_dump(self._config()))
        return [
            binary("kubelet"), f"--config={config}", f"--root-dir={self.folder}/kubelet",
            f"--cert-dir={self.folder}/kubelet-certs",
            f"--kubeconfig={self.api.kubeconfig(f'system:node:{self.node}')}",
            f"--hostname-override={self.node}", "--node-ip=127.0.0.1",
        ]  # fmt: skip

    def environment(self):
        sbin = os.pathsep.join([super().environment().get("PATH", ""), "/usr/sbin", "/sbin"])
        return {**super().environment(), "PATH": sbin}

    def ready(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}/healthz", timeout=2) as answer:
            return answer.status == 200


class Node:
    """containerd and kubelet under one name. Stop it when its pods are gone; what they left is removed."""

    def __init__(self, folder, api, pause, mirrors, name="node-1"):
        self.folder = pathlib.Path(folder)
        self.name, self.api = name, api
        self.subnet = machine.free_subnet()
        self.containerd = Containerd(self.folder, self.subnet, pause, mirrors)
        self.kubelet = Kubelet(self.folder, name, api, self.containerd)

    @property
    def servers(self):
        return [self.containerd, self.kubelet]

    def start(self):
        self.containerd.start()
        return self

    def wait_ready(self, deadline=60.0):
        self.containerd.wait_ready(deadline)
        self.kubelet.start().wait_ready(deadline)
        self.wait_node_ready(deadline)
        return self

    def wait_node_ready(self, deadline=60.0):
        def is_ready(node):
            conditions = {c["type"]: c["status"] for c in node["status"].get("conditions", [])}
            taints = [taint["key"] for taint in node["spec"].get("taints", [])]
            return conditions.get("Ready") == "True" and "node.kubernetes.io/not-ready" not in taints

        self.api.client().wait_for(f"node {self.name} Ready", "nodes", None, self.name, is_ready, deadline)

    def stop(self):
        self.kubelet.stop()
        # Left by workloads that were not deleted, or by a containerd that was killed: nothing after a good run.
        left = [path.name for path in self.containerd.tasks.glob("*")]
        if left and self.containerd.running():
            with contextlib.suppress(AssertionError, OSError):
                self.containerd.ctr("tasks", "delete", "--force", *left)
        self.containerd.stop()
        for identity in left:
            machine.remove_cgroup(f"{machine.CGROUP}/{identity}")
        for pid in machine.shims(str(self.containerd.socket)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 15)
        with contextlib.suppress(NotYet):
            wait_for("shims gone", lambda: not machine.shims(str(self.containerd.socket)), 5)
        machine.unmount_below(self.folder)
        machine.remove_interfaces(self.subnet)

    def __enter__(self):
        try:
            return self.start().wait_ready()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_):
        self.stop()
