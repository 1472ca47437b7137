"""A TCP proxy that does what networks and failing servers do, whatever the protocol."""

from __future__ import annotations

import socket
import struct
import threading
from types import TracebackType

_CHUNK = 65536


class FaultProxy:
    """Passes connections to a loopback port on, and fails them when told. Use as a context manager.

    Attributes:
        port: where it listens.
        requests: first lines of what came from clients on a fresh read, in order: at HTTP, one a request.
        connections: taken so far.
        cut_after: answer bytes after which a connection is cut with a reset; counts down over all connections, and
            is None again after the cut.
        refused: connections to reset at once: a number, counted down.
        stalled: while set, answers are held back.
        answers: canned answers; each takes the place of a whole request and its answer, first come first served.
        refused_methods: only requests that begin with one of these get canned answers; empty: all.
        lost_replies: by method, how many of its requests reach the server while their answers do not come back.
        flip: of the next answer that has so many bytes in one piece, that byte arrives changed; None again after it.
    """

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.requests: list[bytes] = []
        self.connections = 0
        self.cut_after: int | None = None
        self.refused = 0
        self.answers: list[bytes] = []
        self.refused_methods: tuple[bytes, ...] = ()
        self.lost_replies: dict[bytes, int] = {}
        self.flip: int | None = None
        self._losing: set[socket.socket] = set()
        self.stalled = threading.Event()
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> FaultProxy:
        self._run(self._accept)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closed.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            sockets = list(self._sockets)
        for one in sockets:
            _reset(one)
        for thread in self._threads:
            thread.join(10)

    @property
    def endpoint(self) -> str:
        """Where it listens, as a URL."""
        return f"http://127.0.0.1:{self.port}"

    def _run(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if self.refused:
                self.refused -= 1
                _reset(client)
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._upstream))
            except OSError:
                _reset(client)
                continue
            with self._lock:
                self._sockets += [client, server]
            self._run(self._requests_of, client, server)
            self._run(self._answers_of, client, server)

    def _requests_of(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while data := client.recv(_CHUNK):
                line = data.split(b"\r\n", 1)[0]
                if line.endswith(b" HTTP/1.1"):
                    self.requests.append(line[: -len(b" HTTP/1.1")])
                    method = line.split(b" ", 1)[0]
                    if self.lost_replies.get(method):
                        self.lost_replies[method] -= 1
                        self._losing.add(server)
                    if self.answers and (not self.refused_methods or method in self.refused_methods):
                        client.sendall(self.answers.pop(0))
                        client.shutdown(socket.SHUT_WR)
                        while client.recv(
                            _CHUNK
                        ):  # what is not read would reset the connection, and the answer be lost
                            pass
                        break
                server.sendall(data)
        except OSError:
            pass
        _end(client)
        _end(server)

    def _answers_of(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while data := server.recv(_CHUNK):
                while self.stalled.is_set() and not self._closed.wait(0.01):
                    pass
                if server in self._losing:
                    _reset(client)
                    break
                if self.flip is not None and len(data) > self.flip:
                    changed = bytearray(data)
                    changed[self.flip] ^= 1
                    data, self.flip = bytes(changed), None
                if self.cut_after is not None and len(data) > self.cut_after:
                    client.sendall(data[: self.cut_after])
                    self.cut_after = None
                    _reset(client)
                    break
                if self.cut_after is not None:
                    self.cut_after -= len(data)
                client.sendall(data)
        except OSError:
            pass
        _end(client)
        _end(server)


def _end(one: socket.socket) -> None:
    """What was sent arrives, then the end."""
    try:
        one.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


def _reset(one: socket.socket) -> None:
    """The other side gets a reset (SO_LINGER with 0 seconds, socket(7))."""
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.shutdown(socket.SHUT_RD)  # wakes a thread that reads it; until then close would send nothing
        one.close()
    except OSError:
        return
