"""A node that only says so: pods bound to it are told to run, without a kubelet and without containers.

What it writes is what a kubelet writes. It asks the cache for a pod's images as a pull does, so that imageID is what the
tag answered at that moment.
"""

import contextlib
import http.client
import json
import threading
import time

from .client import ApiError
from .registry import RegistryClient


def _now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class NotPulled(Exception):
    """A cache did not answer for an image."""


class StatusNode:
    """`pulls`: {registry: port} to be asked for images. hold() keeps new pods from starting until release().

    `crashing`: {(namespace, app)} of the workloads whose new pods end again and again.
    """

    def __init__(self, api, pulls, name="told-1"):
        self.api, self.name = api, name
        self.caches = {registry: RegistryClient(port) for registry, port in pulls.items()}
        self.free = threading.Event()
        self.free.set()
        self.ended = threading.Event()
        self.threads = []
        self.stream = None
        self.crashing = set()
        self.started = {}  # uid of a pod → the digests that it was told to run
        self.failures = []

    def digests(self):
        """All that any pod was told to run."""
        return {digest for digests in list(self.started.values()) for digest in digests}

    def hold(self):
        self.free.clear()

    def release(self):
        self.free.set()

    # Running

    def start(self):
        client = self.api.client()
        client.call("POST", "/api/v1/nodes", self._node())
        client.patch("nodes", None, self.name, {"status": self._status()}, "strategic", "status")
        client.close()
        for work in (self._follow, self._beat):
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            self.threads.append(thread)
        return self

    def stop(self):
        self.ended.set()
        self.free.set()
        with contextlib.suppress(AttributeError, OSError):  # it is between two watches
            self.stream.sock.shutdown(2)
        for thread in self.threads:
            thread.join(10)

    def _node(self):
        labels = {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
        return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name, "labels": labels}}

    def _status(self):
        room = {"cpu": "32", "memory": "64Gi", "pods": "500"}
        return {
            "capacity": room,
            "allocatable": room,
            "nodeInfo": {"operatingSystem": "linux", "architecture": "amd64"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "Told", "lastHeartbeatTime": _now()}],
        }

    def _beat(self):
        client = self.api.client()
        while not self.ended.wait(5):
            with contextlib.suppress(ApiError, OSError, http.client.HTTPException):
                client.patch("nodes", None, self.name, {"status": self._status()}, "strategic", "status")

    # Pods

    def _follow(self):
        """One watch after the other, each from what is there."""
        client = self.api.client()
        while not self.ended.is_set():
            self.stream = connection = client._connect(60)
            try:
                path = f"/api/v1/pods?watch=true&fieldSelector=spec.nodeName%3D{self.name}"
                connection.request("GET", path, headers=client._headers())
                for line in connection.getresponse():
                    event = json.loads(line)
                    if self.ended.is_set():
                        return
                    if event["type"] in ("ADDED", "MODIFIED"):
                        self._take(client, event["object"])
            except (OSError, ValueError, http.client.HTTPException, ApiError) as error:
                self.failures.append(repr(error))
                self.ended.wait(0.1)
            finally:
                connection.close()

    def _take(self, client, pod):
        meta = pod["metadata"]
        if meta.get("deletionTimestamp"):
            client.delete("pods", meta["namespace"], meta["name"], grace=0)
        elif pod["status"].get("phase") == "Pending":
            self.free.wait()
            try:
                status = {"status": self._running(pod)}
            except NotPulled as error:  # it stays pending; the others have their turn
                self.failures.append(f"{meta['namespace']}/{meta['name']}: {error}")
                return
            with contextlib.suppress(ApiError):  # it is gone meanwhile
                client.patch("pods", meta["namespace"], meta["name"], status, "strategic", "status", manager="told")

    def _running(self, pod):
        now = _now()
        spec, uid = pod["spec"], pod["metadata"]["uid"]
        ended = {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now}}
        well = (pod["metadata"]["namespace"], pod["metadata"].get("labels", {}).get("app")) not in self.crashing
        state = {"running": {"startedAt": now}} if well else {"waiting": {"reason": "CrashLoopBackOff", "message": "told"}}
        init = [self._started(uid, container, ended) for container in spec.get("initContainers", [])]
        containers = [{**self._started(uid, container, state), "ready": well} for container in spec["containers"]]
        conditions = {"Initialized": True, "Ready": well, "ContainersReady": well, "PodScheduled": True}
        return {
            "phase": "Running",
            "startTime": now,
            "conditions": [{"type": kind, "status": str(met), "lastTransitionTime": now} for kind, met in conditions.items()],
            "initContainerStatuses": init,
            "containerStatuses": containers,
        }

    def _started(self, uid, container, state):
        """The status of a container of the pod with that UID; its image is pulled for it."""
        name, digest = self._pull(container["image"])
        self.started.setdefault(uid, []).append(digest)
        return {
            "name": container["name"], "image": container["image"], "imageID": f"{name}@{digest}", "state": state,
            "ready": True, "started": True, "restartCount": 0, "containerID": f"told://{container['name']}",
        }  # fmt: skip

    def _pull(self, image):
        """Name and digest, as a kubelet finds them out. A cache that does not answer is asked again, for a minute.

        NotPulled then.
        """
        registry, rest = image.split("/", 1)
        named, _, digest = rest.partition("@")
        repository, tag = named.rsplit(":", 1)
        agent = {"User-Agent": "containerd/1.6.20"}
        end = time.monotonic() + 60
        last = None
        while not self.ended.wait(0.1 if last else 0):
            try:
                answer = self.caches[registry].manifest(repository, digest or tag, "HEAD", headers=agent)
                if answer.status == 200:
                    return f"{registry}/{repository}", answer.digest
                last = answer.status
            except (OSError, http.client.HTTPException) as error:
                last = error
            if time.monotonic() > end:
                raise NotPulled(f"{image} cannot be pulled: {last!r}")
        raise NotPulled(f"the node stopped before {image} was pulled")
