"""Control: the socket by which commands talk to the daemon of a mount, and which the mount itself leads to.

The socket is in the spool. The source of the mount in /proc/self/mountinfo is `depotfs:` with the socket's path,
percent-encoded: whoever may ask finds it through the kernel alone, in any environment, even if the daemon hangs.
A client sends one line, a JSON object with `request` and the `device` of the mount it means, and gets one line back:

    status    what is mounted, and what is not stored yet; see `depotfs.daemon.serve`
    end       stores everything and unmounts, unless the tree is in use; answered when all that is done
    end now   detaches the tree at once; what is not stored yet stays in the spool

The answer to these two has `ended` if the mount is gone; the connection is then closed when the daemon is gone too.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

import trio

from depotfs.daemon.mountpoint import Mounted

_log = logging.getLogger(__name__)

Message = dict[str, Any]
Answer = Callable[[Message], Awaitable[Message]]

_NAME: Final = "control"
_PREFIX: Final = "depotfs:"
_REQUEST_MAX: Final = 4096  # bytes; a request is one word and a device
_REQUEST_SECONDS: Final = 10.0
"""Until a client has sent its line, which it does at once."""
_UCRED: Final = struct.Struct("iII")  # unix(7), SO_PEERCRED: pid, uid, gid


class DaemonUnreachable(Exception):
    """Nobody answers for the mount: its daemon is dead, or its socket is not within reach."""


def source(directory: str) -> str:
    """What a mount is named by whose spool is that directory; plain ASCII without commas or spaces."""
    return _PREFIX + quote_from_bytes(os.fsencode(f"{os.path.realpath(directory)}/{_NAME}"))


# --- the daemon's side ---------------------------------------------------------------------------------------------


class ControlSocket:
    """The listening end.

    Args:
        directory: the spool, which this process has locked.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._answering = 0
        self._idle = trio.lowlevel.ParkingLot()
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Clients can connect: root, and whoever this process runs as. What a dead daemon left is replaced. OSError."""
        with suppress(FileNotFoundError):
            os.unlink(f"{self._directory}/{_NAME}")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(self._socket.fileno(), 0o600)  # what bind(2) gives the file, too
            with _short(self._directory) as directory:
                self._socket.bind(f"{directory}/{_NAME}")
            self._socket.listen()
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """Nobody can connect any more; requests under way stay connected. Only before the spool is unlocked."""
        with suppress(FileNotFoundError):
            os.unlink(f"{self._directory}/{_NAME}")

    async def serve(self, answer: Answer) -> None:
        """Answers until cancelled; what `answer` raises is logged, and told as `error`."""
        assert self._socket is not None

        async def handle(stream: trio.SocketStream) -> None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # gone, whatever it would have heard
                async with stream:
                    with self._busy():
                        await _answer_one(stream, answer)
                    # It stays connected as long as it wants, or until the daemon is gone.
                    await stream.receive_some()

        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._socket))
        await trio.serve_listeners(handle, [listener])

    @contextmanager
    def _busy(self) -> Iterator[None]:
        self._answering += 1
        try:
            yield
        finally:
            self._answering -= 1
            self._idle.unpark_all()

    async def wait_idle(self) -> None:
        """Every request that was received is answered."""
        while self._answering:
            await self._idle.park()


async def _answer_one(stream: trio.SocketStream, answer: Answer) -> None:
    line = b""
    with trio.move_on_after(_REQUEST_SECONDS):
        while not line.endswith(b"\n") and len(line) < _REQUEST_MAX:
            part = await stream.receive_some()
            if not part:
                return
            line += part
    try:
        request = json.loads(line)
        reply = await answer(request) if isinstance(request, dict) else {"error": "expected an object"}
    except ValueError as error:
        reply = {"error": f"expected one line of JSON: {error}"}
    except Exception as error:
        _log.exception("a request could not be answered")
        reply = {"error": f"{type(error).__name__}: {error}"}
    await stream.send_all(json.dumps(reply).encode() + b"\n")


# --- the client's side ---------------------------------------------------------------------------------------------


def ask(mounted: Mounted, request: str, timeout: float) -> Message:
    """What the daemon of that mount answers.

    Raises:
        DaemonUnreachable: nobody listens, or not the daemon of this mount.
        PermissionError: this user may not ask it.
        TimeoutError: no answer within that many seconds.
    """
    if not mounted.source.startswith(_PREFIX):
        raise DaemonUnreachable("the mount does not tell its control socket")
    path = os.fsdecode(unquote_to_bytes(mounted.source.removeprefix(_PREFIX)))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(max(timeout, 0.001))
        try:
            with _short(os.path.dirname(path)) as directory:
                client.connect(f"{directory}/{_NAME}")
            _check_peer(client, mounted)
            client.sendall(json.dumps({"request": request, "device": mounted.device}).encode() + b"\n")
            return _read_reply(client, path)
        except (PermissionError, TimeoutError):
            raise
        except OSError as error:
            raise DaemonUnreachable(f"{path}: {error.strerror}") from None


def _check_peer(client: socket.socket, mounted: Mounted) -> None:
    """Whoever mounts can name any socket: only one of his own is spoken to."""
    _, uid, _ = _UCRED.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    if uid != mounted.owner:
        raise DaemonUnreachable("the control socket is not of the user who mounted")


def _read_reply(client: socket.socket, path: str) -> Message:
    with client.makefile("rb") as stream:
        try:
            reply = json.loads(stream.readline())
        except ValueError:
            reply = {"error": "it ended before it answered"}
        if not isinstance(reply, dict) or "error" in reply:
            raise DaemonUnreachable(f"{path}: {reply['error'] if isinstance(reply, dict) else 'no answer of ours'}")
        if "ended" in reply:
            stream.read()  # until the process is gone
    return reply


@contextmanager
def _short(directory: str) -> Iterator[str]:
    """Another path of that directory: those of sockets have at most 107 bytes (unix(7))."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
