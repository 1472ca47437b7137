"""What commands and a daemon tell each other."""

import json
import os
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from depotfs.daemon import control
from depotfs.daemon.control import ControlSocket, DaemonUnreachable, Message
from depotfs.daemon.mountpoint import Mounted


def mounted(directory: Path, owner: int | None = None) -> Mounted:
    return Mounted("fuse.depotfs", control.source(str(directory)), "0:7", os.getuid() if owner is None else owner)


async def echo(request: Message) -> Message:
    """Tells what it was asked, and whether it ends by that."""
    if request["request"] == "fail":
        raise RuntimeError("a surprise")
    return {"asked": request, **({"ended": True} if request["request"] == "end" else {})}


@contextmanager
def served(directory: Path) -> Iterator[ControlSocket]:
    """While inside, a daemon whose spool is that directory answers by `echo`."""
    listening = ControlSocket(str(directory))
    listening.open()
    scope = trio.CancelScope()
    token: list[trio.lowlevel.TrioToken] = []

    async def run() -> None:
        token.append(trio.lowlevel.current_trio_token())
        with scope:
            await listening.serve(echo)

    thread = threading.Thread(target=trio.run, args=(run,))
    thread.start()
    try:
        yield listening
    finally:
        trio.from_thread.run_sync(scope.cancel, trio_token=token[0])
        thread.join(30)
        listening.close()


def raw(directory: Path, line: bytes) -> Any:
    """The answer to a line that is not as ours."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(directory / "control"))
        client.sendall(line)
        return json.loads(client.makefile("rb").readline())


@pytest.mark.parametrize("name", ["spool", "ü, \\x2d #\n", "n" * 200], ids=["plain", "odd", "long"])
def test_the_mount_leads_to_its_daemon(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    directory.mkdir()
    found = mounted(directory)
    assert found.source.isascii()
    assert not set(found.source) & set(", \\#\n")
    with served(directory):
        assert (directory / "control").stat().st_mode & 0o777 == 0o600
        assert control.ask(found, "status", 30) == {"asked": {"request": "status", "device": "0:7"}}
    assert os.listdir(directory) == []


def test_what_a_dead_daemon_left_is_replaced(tmp_path: Path) -> None:
    ControlSocket(str(tmp_path)).open()
    with pytest.raises(DaemonUnreachable, match="refused"):
        control.ask(mounted(tmp_path), "status", 30)
    with served(tmp_path):
        assert control.ask(mounted(tmp_path), "status", 30)["asked"]


def test_who_does_not_answer_is_not_taken_for_the_daemon(tmp_path: Path) -> None:
    with pytest.raises(DaemonUnreachable, match="No such file"):
        control.ask(mounted(tmp_path), "status", 30)
    with pytest.raises(DaemonUnreachable, match="does not tell"):
        control.ask(Mounted("fuse.depotfs", "depotfs", "0:7", 0), "status", 30)
    with served(tmp_path):
        with pytest.raises(DaemonUnreachable, match="not of the user who mounted"):
            control.ask(mounted(tmp_path, owner=os.getuid() + 1), "status", 30)
        with pytest.raises(DaemonUnreachable, match="RuntimeError: a surprise"):
            control.ask(mounted(tmp_path), "fail", 30)


def test_an_answer_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "control"))
        silent.listen()
        with pytest.raises(TimeoutError):
            control.ask(mounted(tmp_path), "status", 0.01)


def test_the_end_is_heard_when_the_daemon_is_gone(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        with served(tmp_path):
            client.connect(str(tmp_path / "control"))
            client.sendall(b'{"request": "end"}\n')
            stream = client.makefile("rb")
            assert json.loads(stream.readline())["ended"]
            assert select.select([client], [], [], 0)[0] == [], "who reads to the end of the stream waits on"
        assert stream.read() == b""


@pytest.mark.parametrize(
    ("line", "words"),
    [(b"\n", "JSON"), (b"end\n", "JSON"), (b"[1]\n", "an object"), (b"{}\n", "KeyError"), (b"x" * 5000, "JSON")],
)
def test_what_is_no_request_is_told_and_harms_nobody(tmp_path: Path, line: bytes, words: str) -> None:
    with served(tmp_path):
        assert words in raw(tmp_path, line)["error"]
        assert control.ask(mounted(tmp_path), "status", 30)["asked"]


def test_a_client_that_goes_is_forgotten(tmp_path: Path) -> None:
    with served(tmp_path) as listening:
        for line in (b"", b'{"request": "end"}\n'):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / "control"))
                client.sendall(line)
        assert control.ask(mounted(tmp_path), "status", 30)["asked"]
    trio.run(listening.wait_idle)
