"""A TCP proxy that adds a round trip: every byte arrives a fixed time later, at full bandwidth.

Run as a process of its own, so that its work is not that of the measuring one:
`python -m tests.bench.delay UPSTREAM_PORT ROUND_TRIP_MS` prints the port that it listens on.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

_PIECE = 1 << 20
"""Bytes taken at once: large, since Python's cost is one of pieces."""
_QUEUED = 64
"""Pieces under way in one direction: 64 MiB, more than any latency measured here needs to fill its line."""


def main() -> None:
    """Serves until its standard input ends."""
    upstream, one_way = int(sys.argv[1]), float(sys.argv[2]) / 2000
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=_accept, args=(listener, upstream, one_way), daemon=True).start()
    sys.stdin.read()


def _accept(listener: socket.socket, upstream: int, one_way: float) -> None:
    while True:
        client, _ = listener.accept()
        threading.Thread(target=_connect, args=(client, upstream, one_way), daemon=True).start()


def _connect(client: socket.socket, upstream: int, one_way: float) -> None:
    """Both directions of one connection; its handshake costs a round trip too."""
    time.sleep(2 * one_way)
    try:
        server = socket.create_connection(("127.0.0.1", upstream))
    except OSError:
        client.close()
        return
    for end in (client, server):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    directions = [
        threading.Thread(target=_forward, args=ends, daemon=True)
        for ends in ((client, server, one_way), (server, client, one_way))
    ]
    for direction in directions:
        direction.start()
    for direction in directions:
        direction.join()
    client.close()
    server.close()


def _forward(source: socket.socket, target: socket.socket, delay: float) -> None:
    pieces: queue.Queue[tuple[float, bytes]] = queue.Queue(_QUEUED)
    writer = threading.Thread(target=_deliver, args=(pieces, target), daemon=True)
    writer.start()
    data = b"?"
    while data:
        try:
            data = source.recv(_PIECE)
        except OSError:
            data = b""
        pieces.put((time.monotonic() + delay, data))
    writer.join()


def _deliver(pieces: queue.Queue[tuple[float, bytes]], target: socket.socket) -> None:
    """Sends each piece when it is due; the empty one is the end. After an error the rest is thrown away."""
    broken = False
    while True:
        due, data = pieces.get()
        if not data:
            break
        if broken:
            continue
        time.sleep(max(0, due - time.monotonic()))
        try:
            target.sendall(data)
        except OSError:
            broken = True
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def delayed(port: int, round_trip_ms: float) -> Iterator[int]:
    """The loopback port by which that server is so far away; the server's own for no distance at all."""
    if not round_trip_ms:
        yield port
        return
    command = [sys.executable, "-m", "tests.bench.delay", str(port), str(round_trip_ms)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as proxy:
        assert proxy.stdout is not None
        try:
            yield int(proxy.stdout.readline())
        finally:
            proxy.kill()


if __name__ == "__main__":
    main()
