"""A cluster of a thousand workloads without a node: what controllers and kubelets would write, written here.

controller-manager and scheduler are stopped, so that nothing but keeld and this writer asks the API server.
"""

import hashlib
import json
import queue
import threading
import time

from lab.workloads import deployment

REPLICAS = 2
NODE = "node-1"
NAMESPACES = 20
# Only identity comes back from a write: a few hundred bytes instead of the whole object.
IDENTITY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
IDENTITY_LIST = IDENTITY.replace("Metadata;", "MetadataList;")
CONNECTIONS = 8


class Workers:
    """Threads with an API connection each. An error of one is raised by the next call of check() or join()."""

    def __init__(self, client, count=CONNECTIONS):
        self.jobs = queue.Queue()
        self.failure = None
        self.threads = [threading.Thread(target=self._run, args=(client.another(),), daemon=True) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def _run(self, client):
        while True:
            job, arguments = self.jobs.get()
            try:
                if self.failure is None:
                    job(client, *arguments)
            except Exception as error:  # raised again where somebody waits
                self.failure = error
            finally:
                self.jobs.task_done()

    def submit(self, job, *arguments):
        self.jobs.put((job, arguments))

    def check(self):
        if self.failure is not None:
            raise AssertionError(f"writing to the API server: {self.failure!r}") from self.failure

    def join(self, progress=lambda left: None):
        """Until everything is done; progress(left) is called about five times a second."""
        with self.jobs.all_tasks_done:
            while self.jobs.unfinished_tasks:
                self.jobs.all_tasks_done.wait(0.2)
                self.check()
                progress(self.jobs.unfinished_tasks)
        self.check()


class Cluster:
    """Deployments of two containers and two pods each; every tag of `app` is in `sharing` workloads.

    image(tag) and digest_of(image) name what runs: the second is asked at the moment in which a pod "pulls".
    """

    def __init__(self, kube, workloads, sharing, image, digest_of):
        self.kube, self.count, self.sharing = kube, workloads, sharing
        self.image, self.digest_of = image, digest_of
        self.workers = Workers(kube)
        self.lock = threading.Lock()
        self.revisions = {}  # uid of a Deployment → (revision, names of its pods)
        self.taken = set()  # (uid, generation) of what is rolled out, or is about to be
        self.follower = None

    @property
    def tags(self):
        return -(-self.count // self.sharing)

    def consumers(self, tag):
        """[(namespace, name)] of the workloads that run this tag (a number below `tags`)."""
        numbers = range(tag * self.sharing, min((tag + 1) * self.sharing, self.count))
        return [(f"bench-{number % NAMESPACES}", f"app-{number}") for number in numbers]

    def manifest(self, number):
        """About 3 kB as the API server tells it, as Deployments of real clusters are."""
        tag = number // self.sharing
        images = {"app": self.image("app", tag), "side": self.image("side", tag)}
        item = deployment(f"bench-{number % NAMESPACES}", f"app-{number}", None, REPLICAS, containers=images)
        for container in item["spec"]["template"]["spec"]["containers"]:
            container["env"] = [{"name": f"SETTING_{key}", "value": f"value-{key}-of-{number}"} for key in range(6)]
            container["ports"] = [{"name": "http", "containerPort": 8080 if container["name"] == "app" else 8081}]
            container["resources"] = {
                "requests": {"cpu": "50m", "memory": "64Mi"},
                "limits": {"cpu": "500m", "memory": "256Mi"},
            }
            container["readinessProbe"] = {"httpGet": {"path": "/version", "port": "http"}, "periodSeconds": 10}
        return item

    # --- making it -------------------------------------------------------------------------------------

    def make(self, progress):
        """progress(done): workloads that run."""
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
        self.kube.create(node)
        info = {"operatingSystem": "linux", "architecture": "amd64"}
        self.kube.patch("nodes", None, NODE, {"status": {"nodeInfo": info}}, subresource="status")
        for number in range(min(NAMESPACES, self.count)):
            name = f"bench-{number}"
            self.kube.namespace(name, {"keel.sh/enrolled": "true"})
            account = {"name": "default", "namespace": name}  # nobody else makes it, and pods need one
            self.kube.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
        for number in range(self.count):
            self.workers.submit(self._make_one, number)
        self.workers.join(lambda left: progress(self.count - left))

    def _make_one(self, client, number):
        item = self.manifest(number)
        made = client.call("POST", client.path("deployments", item["metadata"]["namespace"]), item, accept=IDENTITY)
        self.roll(client, {**item, "metadata": {**item["metadata"], **made["metadata"]}})

    def roll(self, client, item):
        """What follows a new pod template: a ReplicaSet, its pods, running, the old ones gone, the status."""
        meta = item["metadata"]
        namespace, name, uid = meta["namespace"], meta["name"], meta["uid"]
        revision, old = self.revisions.get(uid, (0, []))
        revision += 1
        template = json.loads(json.dumps(item["spec"]["template"]))
        found = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]
        template["metadata"].setdefault("labels", {})["pod-template-hash"] = found
        labels = template["metadata"]["labels"]
        owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": uid}
        number = {"deployment.kubernetes.io/revision": str(revision)}
        replica_set = {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": f"{name}-{found}", "namespace": namespace, "labels": labels, "annotations": number,
                "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
            },
            "spec": {"replicas": REPLICAS, "selector": {"matchLabels": labels}, "template": template},
        }  # fmt: skip
        made = client.call("POST", client.path("replicasets", namespace), replica_set, accept=IDENTITY)
        owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": made["metadata"]["name"]}
        owner["uid"] = made["metadata"]["uid"]
        pods = [f"{name}-{found}-{letter}" for letter in "abcdefgh"[:REPLICAS]]
        for pod in pods:
            self._run_pod(client, namespace, pod, template, owner)
        for pod in old:
            client.delete("pods", namespace, pod, grace=0)
        status = {
            "observedGeneration": meta["generation"], "replicas": REPLICAS, "updatedReplicas": REPLICAS,
            "readyReplicas": REPLICAS, "availableReplicas": REPLICAS,
            "conditions": [{"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable"},
                           {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}],
        }  # fmt: skip
        self._patch_status(client, "deployments", namespace, name, status, number)
        with self.lock:
            self.revisions[uid] = (revision, pods)

    def _run_pod(self, client, namespace, name, template, owner):
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                **template["metadata"], "name": name, "namespace": namespace,
                "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
            },
            "spec": {**template["spec"], "nodeName": NODE},
        }  # fmt: skip
        client.call("POST", client.path("pods", namespace), pod, accept=IDENTITY)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        statuses = []
        for container in template["spec"]["containers"]:
            digest = self.digest_of(container["image"])
            statuses.append(
                {
                    "name": container["name"], "image": container["image"],
                    "imageID": f"{container['image'].rpartition(':')[0]}@{digest}",
                    "containerID": "containerd://" + hashlib.sha256(name.encode()).hexdigest(),
                    "ready": True, "started": True, "restartCount": 0, "lastState": {},
                    "state": {"running": {"startedAt": now}},
                }
            )  # fmt: skip
        types = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
        status = {
            "phase": "Running", "podIP": "192.0.2.1", "hostIP": "127.0.0.1", "startTime": now,
            "conditions": [{"type": kind, "status": "True", "lastTransitionTime": now} for kind in types],
            "containerStatuses": statuses,
        }  # fmt: skip
        self._patch_status(client, "pods", namespace, name, status)

    @staticmethod
    def _patch_status(client, kind, namespace, name, status, annotations=None):
        body = {"status": status}
        if annotations:
            body["metadata"] = {"annotations": annotations}
        path = client.path(kind, namespace, name) + "/status?fieldManager=writer"
        client.call("PATCH", path, body, content_type="application/merge-patch+json", accept=IDENTITY)

    # --- following it ----------------------------------------------------------------------------------

    def follow(self):
        """From now on a Deployment whose template changes is rolled out at once."""
        listed = self.kube.call("GET", self.kube.path("deployments", limit=1), accept=IDENTITY_LIST)
        version = listed["metadata"]["resourceVersion"]
        self.follower = threading.Thread(target=self._follow, args=(self.kube.another(), version), daemon=True)
        self.follower.start()

    def _follow(self, client, version):
        try:
            for item in watch_all(client, "deployments", version):
                seen = item.get("status", {}).get("observedGeneration", 0)
                this = (item["metadata"]["uid"], item["metadata"]["generation"])
                if this[1] > seen and this not in self.taken:
                    self.taken.add(this)
                    self.workers.submit(self.roll, item)
        except Exception as error:  # told where somebody waits
            self.workers.failure = self.workers.failure or error


def watch_all(client, kind, version):
    """Objects of that kind as they change after that resourceVersion, until the server ends the watch."""
    connection = client._connect(timeout=3600)
    try:
        path = client.path(kind, watch="true", resourceVersion=version)
        connection.request("GET", path, headers=client._headers())
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        for line in answer:
            event = json.loads(line)
            assert event["type"] != "ERROR", event
            yield event["object"]
        raise AssertionError("the API server ended the watch")
    finally:
        connection.close()
