"""A name server whose answers a test can change."""

import socket
import struct
import threading

A, IN = 1, 1


class NameServer:
    """Answers A questions on 127.0.0.1:port from `addresses`, {name: IPv4 address}; other names do not exist."""

    def __init__(self, addresses):
        self.addresses = dict(addresses)
        self.asked = 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                question, client = self.socket.recvfrom(512)
            except OSError:
                return
            self.asked += 1
            self.socket.sendto(self._answer(question), client)

    def _answer(self, question):
        """RFC 1035 4.1: header, the one question again, and an answer that points at its name."""
        labels, at = [], 12
        while length := question[at]:
            labels.append(question[at + 1 : at + 1 + length].decode())
            at += 1 + length
        kind, klass = struct.unpack("!HH", question[at + 1 : at + 5])
        address = self.addresses.get(".".join(labels).lower())
        known = address is not None
        found = known and (kind, klass) == (A, IN)
        header = question[:2] + struct.pack("!HHHHH", 0x8180 if known else 0x8183, 1, int(found), 0, 0)
        answer = b"\xc0\x0c" + struct.pack("!HHIH", A, IN, 1, 4) + socket.inet_aton(address) if found else b""
        return header + question[12 : at + 5] + answer

    def stop(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
