"""A proxy between a client and an API server that can be told to fail: cut, lose, hold or refuse requests.

The API server behind it is the real one; what passes is passed unchanged. The client's side is plain HTTP.
"""

import contextlib
import http.client
import http.server
import json
import socket
import threading
import time

PASS, CUT, LOSE, HOLD = "pass", "cut", "lose", "hold"
DRY_RUN = "DRY-RUN"  # the method of a request that changes nothing, whatever it would do otherwise


class Refuse:
    """An answer of the proxy's own."""

    def __init__(self, status, headers=None, reason="TooManyRequests"):
        self.status, self.headers, self.reason = status, headers or {}, reason


class Request:
    """One that came: when, and what became of it (status of the server's answer, None while there is none)."""

    def __init__(self, method, path):
        self.method, self.path, self.at, self.status, self.done = method, path, time.monotonic(), None, PASS
        if "dryRun=All" in path:
            self.method = DRY_RUN
        self.gone = False  # in the stream of a watch: the server said 410

    def __repr__(self):
        return f"{self.method} {self.path} {self.done} {self.status}"

    @property
    def watch(self):
        return "watch=1" in self.path or "watch=true" in self.path


class CutProxy:
    """rule(request) decides: PASS; CUT: the connection closes and the server never hears of it; LOSE: the server answers
    and the answer does not arrive; HOLD: kept until `opened`, then cut; a Refuse. Set `rule` at any time."""

    def __init__(self, api):
        self.api = api
        self.rule = lambda request: PASS
        self.requests = []
        self.opened = threading.Event()  # lets go of what is held
        self.sockets = set()
        self.streams = set()
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def setup(self):
                super().setup()
                self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.upstream = None
                proxy.sockets.add(self.connection)

            def finish(self):
                proxy.sockets.discard(self.connection)
                if self.upstream:
                    self.upstream.close()
                with contextlib.suppress(OSError):
                    super().finish()

            def handle(self):
                with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                    super().handle()

            def any(self):
                proxy._serve(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = any

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def stop(self):
        self.opened.set()
        self.server.shutdown()
        self.server.server_close()
        self.cut_all()

    def cut_all(self):
        """Closes every connection that is open now, at once."""
        self._close(self.sockets)

    def cut_watches(self):
        """Closes the connections that carry a watch now; returns how many. `streams` then holds only new ones."""
        cut, self.streams = self.streams, set()
        return self._close(cut)

    @staticmethod
    def _close(sockets):
        count = 0
        for one in list(sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
                count += 1
        return count

    def seen(self, method=None, part="", done=None):
        return [
            one
            for one in self.requests
            if method in (None, one.method) and part in one.path and done in (None, one.done)
        ]

    # One request

    def _serve(self, handler):
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        request = Request(handler.command, handler.path)
        action = self.rule(request)
        request.done = action if isinstance(action, str) else str(action.status)
        self.requests.append(request)
        if action == HOLD:
            self.opened.wait()
        if action in (CUT, HOLD):
            self._end(handler)
        elif isinstance(action, Refuse):
            self._refuse(handler, request, action)
        else:
            self._forward(handler, request, body, action == LOSE)

    @staticmethod
    def _end(handler):
        handler.close_connection = True
        with contextlib.suppress(OSError):
            handler.connection.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _refuse(handler, request, refusal):
        request.status = refusal.status
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": refusal.reason,
                  "message": "refused on the way", "code": refusal.status}  # fmt: skip
        data = json.dumps(status).encode()
        handler.send_response(refusal.status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(data), **refusal.headers}.items():
            handler.send_header(name, str(value))
        handler.end_headers()
        handler.wfile.write(data)

    def _forward(self, handler, request, body, lose):
        drop = {"host", "connection", "content-length", "accept-encoding"}
        headers = {name: value for name, value in handler.headers.items() if name.lower() not in drop}
        try:
            if handler.upstream is None:
                handler.upstream = self.api.client()._connect(300)
            handler.upstream.request(handler.command, handler.path, body or None, headers)
            answer = handler.upstream.getresponse()
        except (OSError, http.client.HTTPException):
            self._end(handler)
            return
        if request.watch and answer.status == 200:
            request.status = answer.status
            self._stream(handler, request, answer)
            return
        data = answer.read()
        request.status = answer.status
        if lose:
            self._end(handler)
            return
        handler.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def _stream(self, handler, request, answer):
        handler.send_response(answer.status)
        handler.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        self.streams.add(handler.connection)
        try:
            while data := answer.read1(65536):
                request.gone = request.gone or b'"code":410' in data
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            handler.wfile.write(b"0\r\n\r\n")
        except (OSError, http.client.HTTPException):
            self._end(handler)
        finally:
            self.streams.discard(handler.connection)
            handler.upstream.close()
            handler.upstream = None
