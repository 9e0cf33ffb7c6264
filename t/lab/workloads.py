"""Manifests of workloads, as short as they can be."""


def pod_template(image, app, pull="Always", containers=None, init=None, annotations=None, labels=None):
    """containers, init: {name: image}; without containers there is one named `app`."""

    def container(name, reference):
        return {"name": name, "image": reference, "imagePullPolicy": pull}

    spec = {
        "terminationGracePeriodSeconds": 2,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "dnsPolicy": "Default",
        "containers": [container(*item) for item in (containers or {"app": image}).items()],
    }
    if init:
        spec["initContainers"] = [
            {**container(name, reference), "command": ["/bin/true"]} for name, reference in init.items()
        ]
    return {
        "metadata": {"labels": {"app": app, **(labels or {})}, "annotations": annotations or {}},
        "spec": spec,
    }


def _workload(kind, namespace, name, image, replicas, annotations, labels, template, spec):
    metadata = {"name": name, "namespace": namespace, "labels": {"app": name, **(labels or {})}}
    if annotations:
        metadata["annotations"] = annotations
    body = {"selector": {"matchLabels": {"app": name}}, "template": pod_template(image, name, **template)}
    if replicas is not None:
        body["replicas"] = replicas
    body.update(spec or {})
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": metadata, "spec": body}


def deployment(namespace, name, image, replicas=1, annotations=None, labels=None, spec=None, probe=False, **template):
    """probe: Ready only once the image's page answers (not for images that do not serve)."""
    item = _workload("Deployment", namespace, name, image, replicas, annotations, labels, template, spec)
    item["spec"].setdefault("progressDeadlineSeconds", 60)
    if probe:
        item["spec"]["template"]["spec"]["containers"][0]["readinessProbe"] = {
            "httpGet": {"path": "/version", "port": 8080},
            "periodSeconds": 1,
        }
    return item


def statefulset(namespace, name, image, replicas=1, annotations=None, labels=None, spec=None, **template):
    spec = {"serviceName": name, **(spec or {})}
    return _workload("StatefulSet", namespace, name, image, replicas, annotations, labels, template, spec)


def daemonset(namespace, name, image, annotations=None, labels=None, spec=None, **template):
    return _workload("DaemonSet", namespace, name, image, None, annotations, labels, template, spec)


def cronjob(namespace, name, image, schedule="0 0 1 1 *", annotations=None, labels=None, **template):
    pod = pod_template(image, name, **template)
    pod["spec"]["restartPolicy"] = "Never"
    metadata = {"name": name, "namespace": namespace, "labels": {"app": name, **(labels or {})}}
    if annotations:
        metadata["annotations"] = annotations
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": metadata,
        "spec": {"schedule": schedule, "jobTemplate": {"spec": {"template": pod}}},
    }
