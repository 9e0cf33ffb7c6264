"""Sources of others that tests run against, where the machine has them: archives in $KEEL_THIRD_PARTY, or in
../shared/third-party beside the checkout. Unpacked once, below ~/.cache/ngx-keel.
"""

import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile

from .process import run

ROOT = pathlib.Path(__file__).resolve().parents[2]


def archives():
    return pathlib.Path(os.environ.get("KEEL_THIRD_PARTY", ROOT.parent / "shared/third-party"))


def kept():
    """Where what is built or unpacked once for this machine lies."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "ngx-keel"


def there(name):
    return (archives() / f"{name}.tar.xz").is_file()


def once(into, make):
    """The folder `into` below kept(), made by make(temporary folder) where it is not there, by one at a time."""
    place = kept() / into
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{place}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            temporary = pathlib.Path(tempfile.mkdtemp(prefix=f"{place.name}.", dir=place.parent))
            temporary.chmod(0o755)
            try:
                make(temporary)
                temporary.rename(place)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return place


def source(name):
    """The folder that the archive holds, unpacked."""
    archive = archives() / f"{name}.tar.xz"
    key = hashlib.sha256(archive.read_bytes()).hexdigest()[:8]
    return once(f"third-party/{name}-{key}", lambda into: run("tar", "-xJf", archive, "-C", into)) / name


def go_program(folder, name):
    """A Go program of a folder of such a source, built once; the path of it."""
    key = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("*")) if path.is_file())).hexdigest()[:8]

    def build(into):
        go = subprocess.check_output([ROOT / ".ci/deps", "go"], text=True).strip()
        env = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "auto"}
        run(go, "build", "-trimpath", "-buildvcs=false", "-o", into / name, ".", deadline=600, env=env, cwd=folder)

    return once(f"{name}-{key}", build) / name
