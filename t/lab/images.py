"""Images out of Debian's busybox: small, without a network, and each one tells what it is.

Every image answers GET /version on port 8080 and holds the same text in /version.
"""

import dataclasses
import os
import pathlib

from .process import program, run

START = """#!/bin/sh
# The end comes at once when asked for: as process 1 a shell ignores signals that it does not trap.
trap 'exit 0' TERM INT
httpd -p 8080 -h /www
while :; do sleep 3600 & wait $!; done
"""


@dataclasses.dataclass(frozen=True)
class Pushed:
    """What a tag stands for after a push."""

    repository: str
    tag: str
    digest: str  # what the tag answers
    config: str  # identity of the image on a node
    version: str


class Images:
    """Builds with umoci in an OCI layout of its own, pushes with skopeo."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.layout = self.folder / "layout"
        self.rootless = [] if os.getuid() == 0 else ["--rootless"]
        self.built = 0

    def _umoci(self, *words):
        run(program("umoci"), *words)

    def base(self):
        """busybox with its applets, a page for /version, a start that ends when told to."""
        if self.layout.exists():
            return
        root = self.folder / "root"
        (root / "bin").mkdir(parents=True)
        (root / "tmp").mkdir()
        busybox = root / "bin/busybox"
        busybox.write_bytes(pathlib.Path(program("busybox")).read_bytes())
        busybox.chmod(0o755)
        for applet in ("sh", "httpd", "sleep", "cat", "ls", "wget", "true", "false", "date", "hostname"):
            (root / "bin" / applet).symlink_to("busybox")
        (root / "www").mkdir()
        (root / "www/version").symlink_to("/version")
        (root / "bin/start").write_text(START)
        (root / "bin/start").chmod(0o755)
        self._umoci("init", "--layout", self.layout)
        self._umoci("new", "--image", f"{self.layout}:base")
        self._umoci("insert", *self.rootless, "--image", f"{self.layout}:base", root, "/")
        self._umoci("config", "--image", f"{self.layout}:base", "--config.entrypoint", "/bin/start",
                    "--config.env", "PATH=/bin")  # fmt: skip

    def build(self, version, entrypoint=None):
        """A new image whose content is `version`; returns its name in the layout.

        entrypoint: instead of serving, for example ["/bin/false"] for a build that exits at once.
        """
        self.base()
        self.built += 1
        name = f"build-{self.built}"
        text = self.folder / "version"
        text.write_text(f"{version}\n")
        self._umoci("insert", *self.rootless, "--image", f"{self.layout}:base", "--tag", name, text, "/version")
        if entrypoint:
            self._umoci("config", "--image", f"{self.layout}:{name}", "--clear=config.entrypoint",
                        *[f"--config.entrypoint={word}" for word in entrypoint])  # fmt: skip
        return name

    def push(self, registry, repository, tag, version, entrypoint=None, name=None):
        """Builds (or takes the build `name`) and pushes it to registry/repository:tag."""
        name = name or self.build(version, entrypoint)
        run(
            program("skopeo"), "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false",
            f"oci:{self.layout}:{name}", f"docker://127.0.0.1:{registry.port}/{repository}:{tag}",
        )  # fmt: skip
        answer = registry.manifest(repository, tag)
        return Pushed(repository, tag, answer.digest, answer.json["config"]["digest"], version)
