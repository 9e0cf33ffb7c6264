"""A small Kubernetes client for tests: what a person does with kubectl, without starting one each time."""

import http.client
import json
import ssl
import urllib.parse

from .wait import wait_for

# plural name → where it lives
KINDS = {
    "namespaces": "/api/v1",
    "pods": "/api/v1",
    "nodes": "/api/v1",
    "events": "/api/v1",
    "configmaps": "/api/v1",
    "secrets": "/api/v1",
    "serviceaccounts": "/api/v1",
    "resourcequotas": "/api/v1",
    "limitranges": "/api/v1",
    "persistentvolumes": "/api/v1",
    "persistentvolumeclaims": "/api/v1",
    "deployments": "/apis/apps/v1",
    "statefulsets": "/apis/apps/v1",
    "daemonsets": "/apis/apps/v1",
    "replicasets": "/apis/apps/v1",
    "controllerrevisions": "/apis/apps/v1",
    "cronjobs": "/apis/batch/v1",
    "jobs": "/apis/batch/v1",
    "leases": "/apis/coordination.k8s.io/v1",
    "clusterroles": "/apis/rbac.authorization.k8s.io/v1",
    "clusterrolebindings": "/apis/rbac.authorization.k8s.io/v1",
    "roles": "/apis/rbac.authorization.k8s.io/v1",
    "rolebindings": "/apis/rbac.authorization.k8s.io/v1",
    "poddisruptionbudgets": "/apis/policy/v1",
}
PATCH_TYPES = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",
}


class ApiError(AssertionError):
    def __init__(self, status, message):
        super().__init__(f"{status}: {message}")
        self.status = status


def plural(kind):
    """`Deployment` and `deployments` alike."""
    kind = kind.lower()
    return kind if kind in KINDS else kind + "s"


class Client:
    """One keep-alive connection; not for use by several threads."""

    def __init__(self, host, port, ca=None, token=None):
        """Without ca plain HTTP, as `kubectl proxy` serves it."""
        self.host, self.port, self.token = host, port, token
        self.context = ssl.create_default_context(cafile=str(ca)) if ca else None
        self.connection = None

    def another(self):
        """The same server on a connection of its own, for a thread."""
        other = Client(self.host, self.port, token=self.token)
        other.context = self.context
        return other

    def _connect(self, timeout=30):
        if self.context:
            return http.client.HTTPSConnection(self.host, self.port, timeout=timeout, context=self.context)
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout)

    def _headers(self):
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def request(self, method, path, body=None, content_type="application/json", accept="application/json"):
        """Returns (status, parsed body). A connection that the server has closed is opened again once."""
        payload = None if body is None else (body if isinstance(body, (bytes, str)) else json.dumps(body))
        headers = {**self._headers(), "Accept": accept, "Content-Type": content_type}
        for fresh in (False, True):
            if fresh or self.connection is None:
                self.close()
                self.connection = self._connect()
            try:
                self.connection.request(method, path, payload, headers)
                answer = self.connection.getresponse()
                data = answer.read()
                break
            except (http.client.HTTPException, ConnectionError, ssl.SSLEOFError):
                if fresh:
                    self.close()
                    raise
        if "json" in answer.headers.get("Content-Type", ""):
            return answer.status, json.loads(data)
        return answer.status, data.decode(errors="replace")

    def close(self):
        if self.connection:
            self.connection.close()
            self.connection = None

    def call(self, method, path, body=None, **options):
        status, answer = self.request(method, path, body, **options)
        if status >= 400:
            raise ApiError(status, answer.get("message", answer) if isinstance(answer, dict) else answer)
        return answer

    @staticmethod
    def path(kind, namespace=None, name=None, **query):
        kind = plural(kind)
        parts = [KINDS[kind]]
        if namespace:
            parts.append(f"namespaces/{namespace}")
        parts.append(kind)
        if name:
            parts.append(name)
        return "/".join(parts) + ("?" + urllib.parse.urlencode(query) if query else "")

    def list(self, kind, namespace=None, labels=None):
        query = {"labelSelector": labels} if labels else {}
        return self.call("GET", self.path(kind, namespace, **query))["items"]

    def get(self, kind, namespace, name):
        """The object, or None where there is none."""
        status, answer = self.request("GET", self.path(kind, namespace, name))
        if status == 404:
            return None
        if status >= 400:
            raise ApiError(status, answer)
        return answer

    def create(self, *objects):
        """Creates objects (namespace in their metadata); returns the last one as the server has it."""
        made = None
        for item in objects:
            made = self.call("POST", self.path(item["kind"], item["metadata"].get("namespace")), item)
        return made

    def patch(self, kind, namespace, name, body, type="merge", subresource="", manager="lab"):
        path = self.path(kind, namespace, name) + (f"/{subresource}" if subresource else "")
        path += f"?fieldManager={manager}"
        return self.call("PATCH", path, body, content_type=PATCH_TYPES[type])

    def replace(self, item, subresource=""):
        meta = item["metadata"]
        path = self.path(item["kind"], meta.get("namespace"), meta["name"])
        return self.call("PUT", path + (f"/{subresource}" if subresource else ""), item)

    def delete(self, kind, namespace, name, grace=None):
        """Deletes with everything that it owns; no error when it is gone already."""
        body = {"propagationPolicy": "Background"}
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        status, answer = self.request("DELETE", self.path(kind, namespace, name), body)
        if status >= 400 and status != 404:
            raise ApiError(status, answer)

    def namespace(self, name, labels=None, annotations=None):
        return self.create(
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": name, "labels": labels or {}, "annotations": annotations or {}},
            }
        )

    def wait_for(self, what, kind, namespace, name, condition, deadline=60.0):
        """Waits until condition(object) is true and returns the object. A missing object counts as not yet."""

        def met():
            item = self.get(kind, namespace, name)
            return item if item and condition(item) else None

        return wait_for(what, met, deadline, interval=0.05)

    def wait_rolled_out(self, namespace, name, kind="deployments", deadline=90.0):
        """Waits until the newest generation is what runs, complete and ready."""
        return self.wait_for(f"{kind}/{namespace}/{name} rolled out", kind, namespace, name, rolled_out, deadline)

    def watch(self, kind, namespace, name, timeout=120):
        """Yields the object now and whenever it changes, until `timeout` seconds without a change (TimeoutError)."""
        connection = self._connect(timeout)
        try:
            query = {"watch": "true", "fieldSelector": f"metadata.name={name}"}
            connection.request("GET", self.path(kind, namespace, **query), headers=self._headers())
            answer = connection.getresponse()
            if answer.status != 200:
                raise ApiError(answer.status, answer.read())
            for line in answer:
                yield json.loads(line)["object"]
        finally:
            connection.close()

    def pods(self, namespace, app):
        """Pods of one workload that are not on their way out."""
        return [pod for pod in self.list("pods", namespace, f"app={app}") if not pod["metadata"].get("deletionTimestamp")]


def rolled_out(item):
    status, wanted = item.get("status", {}), item["spec"].get("replicas", 1)
    if status.get("observedGeneration", 0) < item["metadata"]["generation"]:
        return False
    if item["kind"] == "DaemonSet":
        wanted = status.get("desiredNumberScheduled", 0)
        return status.get("updatedNumberScheduled", 0) == wanted == status.get("numberReady", 0) and wanted > 0
    counts = [status.get("replicas", 0), status.get("updatedReplicas", 0), status.get("readyReplicas", 0)]
    return counts == [wanted] * 3
