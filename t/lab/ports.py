"""Free ports on loopback."""

import random
import socket

_given = set()


def free_port():
    """A TCP port that is free on 127.0.0.1 and that this process has not given away yet.

    From below the range that the kernel hands to outgoing connections, so that nothing takes it between
    here and the server's own bind().
    """
    while True:
        port = random.randrange(20000, 32000)
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
