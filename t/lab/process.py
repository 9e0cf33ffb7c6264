"""A server that the lab runs."""

import os
import pathlib
import shutil
import signal
import subprocess

from .wait import NotYet, wait_for


class Failed(AssertionError):
    """A server did not do what it must; the message holds the end of its log."""


def program(name, *also):
    """The path of an installed program; sbin counts, also for those who do not have it in PATH. $KEEL_NGINX is another nginx."""
    if name == "nginx" and "KEEL_NGINX" in os.environ:
        return os.environ["KEEL_NGINX"]
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    for candidate in (name, *also):
        found = shutil.which(candidate, path=path)
        if found:
            return found
    raise Failed(f"{name} is not installed")


class Server:
    """Subclasses give `name`, command() and ready()."""

    name = "server"
    stop_signal = signal.SIGTERM
    stop_deadline = 15.0

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process = None

    def command(self):
        raise NotImplementedError

    def environment(self):
        """A KUBECONFIG or proxy that the person has exported is none of the lab's business."""
        drop = {"KUBECONFIG", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"}
        return {key: value for key, value in os.environ.items() if key not in drop}

    def ready(self):
        return True

    @property
    def log(self):
        return self.folder / f"{self.name}.log"

    @property
    def pid(self):
        return self.process.pid if self.process else None

    def running(self):
        return self.process is not None and self.process.poll() is None

    def start(self):
        """Starts without waiting. In a session of its own: Ctrl-C reaches the lab, which ends things in order."""
        assert not self.running(), f"{self.name} runs already"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [str(word) for word in self.command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self.environment(),
                start_new_session=True,
            )
        return self

    def wait_ready(self, deadline=60.0):
        def condition():
            if not self.running():
                raise Failed(f"{self.name} ended with {self.process.returncode}\n{self.tail()}")
            return self.ready()

        try:
            wait_for(f"{self.name} ready", condition, deadline)
        except NotYet as error:
            raise Failed(f"{error}\n{self.tail()}") from None
        return self

    def stop(self):
        """Ends it as its own manual says; with SIGKILL when it does not follow. Safe to call again."""
        if not self.running():
            return
        self.process.send_signal(self.stop_signal)
        try:
            self.process.wait(self.stop_deadline)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self):
        """SIGKILL, at once."""
        if self.running():
            self.process.kill()
            self.process.wait()

    def restart(self, deadline=60.0):
        self.stop()
        return self.start().wait_ready(deadline)

    def tail(self, lines=30):
        if not self.log.exists():
            return f"--- {self.name}: no log"
        text = self.log.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join([f"--- {self.name} ({self.log})", *(line[:400] for line in text)])

    def __enter__(self):
        try:
            return self.start().wait_ready()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_):
        self.stop()


def run(*words, deadline=60.0, text=None, env=None, cwd=None):
    """Runs a program to its end and returns what it wrote; what it complained about is in the error."""
    done = subprocess.run(
        [str(word) for word in words],
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=deadline,
        env=env,
        cwd=cwd,
    )
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, words))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout
