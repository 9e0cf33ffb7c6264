"""Registries: one that people push to, and one that pulls through to it."""

import dataclasses
import hashlib
import http.client
import json

import yaml

from .ports import free_port
from .process import Server, program

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
# What containerd sends: the four modern types.
ACCEPT = f"{DOCKER_MANIFEST}, {DOCKER_LIST}, {OCI_MANIFEST}, {OCI_INDEX}, */*"


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a registry said about one manifest."""

    status: int
    digest: str
    type: str
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


class RegistryClient:
    """The registry API, as far as the lab needs it, against any host and port (a registry or a cache before it)."""

    def __init__(self, port, host="127.0.0.1"):
        self.host, self.port = host, port

    def request(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def manifest(self, repository, reference, method="GET", query="", accept=ACCEPT, headers=None):
        path = f"/v2/{repository}/manifests/{reference}{query}"
        status, got, body = self.request(method, path, headers={"Accept": accept, **(headers or {})})
        return Answer(status, got.get("Docker-Content-Digest", ""), got.get("Content-Type", ""), body)

    def digest(self, repository, tag, query=""):
        """The digest that a pull of the tag gets now; "" where there is none."""
        return self.manifest(repository, tag, "HEAD", query).digest

    def blob(self, repository, digest):
        status, _, body = self.request("GET", f"/v2/{repository}/blobs/{digest}")
        assert status == 200, f"blob {digest}: {status}"
        return body

    def put_blob(self, repository, data):
        digest = sha256(data)
        status, _, _ = self.request("HEAD", f"/v2/{repository}/blobs/{digest}")
        if status != 200:
            status, headers, body = self.request("POST", f"/v2/{repository}/blobs/uploads/", b"")
            assert status == 202, f"upload to {repository}: {status} {body!r}"
            place = headers["Location"].split("/v2/", 1)[1]
            place = f"/v2/{place}{'&' if '?' in place else '?'}digest={digest}"
            status, _, body = self.request("PUT", place, data, {"Content-Type": "application/octet-stream"})
            assert status == 201, f"blob to {repository}: {status} {body!r}"
        return digest

    def put_manifest(self, repository, reference, manifest):
        """Puts a manifest (bytes or a JSON object) and returns its digest. One without mediaType is an OCI image."""
        data = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
        kind = json.loads(data).get("mediaType", OCI_MANIFEST)
        path = f"/v2/{repository}/manifests/{reference or sha256(data)}"
        status, _, body = self.request("PUT", path, data, {"Content-Type": kind})
        assert status == 201, f"manifest to {repository}: {status} {body!r}"
        return sha256(data)

    def delete_manifest(self, repository, digest):
        status, _, body = self.request("DELETE", f"/v2/{repository}/manifests/{digest}")
        assert status == 202, f"delete {digest}: {status} {body!r}"

    def put_variant(self, repository, of, label, platform=None, reference=None, created=None):
        """The image `of` (a digest or tag) again with another label in its config: another digest, the same files.

        Returns its digest. platform: (os, architecture) to claim. reference: a tag to put it under. created: when it
        says that it was built.
        """
        manifest = self.manifest(repository, of).json
        config = json.loads(self.blob(repository, manifest["config"]["digest"]))
        config.setdefault("config", {}).setdefault("Labels", {})["variant"] = str(label)
        if platform:
            config["os"], config["architecture"] = platform
        if created:
            config["created"] = created
        data = json.dumps(config).encode()
        manifest["config"].update(digest=self.put_blob(repository, data), size=len(data))
        manifest["mediaType"] = manifest.get("mediaType", OCI_MANIFEST)
        return self.put_manifest(repository, reference, manifest)

    def put_index(self, repository, reference, images, annotations=None):
        """An index of [(os, architecture, digest)]; unknown/unknown is what BuildKit calls its attestations."""
        entries = []
        for system, architecture, digest in images:
            image = self.manifest(repository, digest)
            entries.append(
                {
                    "mediaType": image.type,
                    "digest": digest,
                    "size": len(image.body),
                    "platform": {"os": system, "architecture": architecture},
                }
            )
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        if annotations:
            index["annotations"] = annotations
        return self.put_manifest(repository, reference, index)


class Registry(Server, RegistryClient):
    """Debian's docker-registry; with proxy_of a pull-through cache of that URL, which must be up first."""

    def __init__(self, folder, name="registry", proxy_of=None, at=None, access_log=False):
        """at: (host, port) instead of a free port on 127.0.0.1. access_log: in its log, a line for each request."""
        self.name = name
        Server.__init__(self, folder)
        host, port = at or ("127.0.0.1", free_port())
        RegistryClient.__init__(self, port, host)
        config = {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": not access_log}},
            "storage": {"filesystem": {"rootdirectory": f"{self.folder}/{name}"}, "delete": {"enabled": True}},
            "http": {"addr": f"{self.host}:{self.port}"},
        }
        if proxy_of:
            config["proxy"] = {"remoteurl": proxy_of}
        self.config = self.folder / f"{name}.yaml"
        self.settings = config
        self.write()

    def write(self):
        self.config.write_text(yaml.safe_dump(self.settings))

    @property
    def url(self):
        return f"http://{self.host}:{self.port}"

    def command(self):
        return [program("docker-registry"), "serve", self.config]

    def ready(self):
        return self.request("GET", "/v2/")[0] == 200
