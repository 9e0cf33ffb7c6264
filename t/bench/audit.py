"""The API server's own account of what it was asked, read as it grows."""

import datetime

from lab.kubernetes import audited


def moment(text):
    """RFC 3339 → seconds since the epoch."""
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


class AuditLog:
    """read() returns the requests that were answered since the last call; a watch counts when it began."""

    def __init__(self, path):
        self.file = open(path, "rb")
        self.rest = b""

    def read(self, user):
        found = []
        self.rest += self.file.read()
        *lines, self.rest = self.rest.split(b"\n")
        name = f'"username":"{user}"'.encode()
        for line in lines:
            if name not in line:
                continue
            entry = audited(line)
            stage, verb = entry["stage"], entry["verb"]
            if entry["user"].get("username") == user and stage == (
                "ResponseStarted" if verb == "watch" else "ResponseComplete"
            ):
                found.append(entry)
        return found

    def close(self):
        self.file.close()
