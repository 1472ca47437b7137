"""What systemd is told."""

import os
import socket
from pathlib import Path

import pytest

from depotfs.daemon import notify


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_it_hears_that_the_mount_answers_and_that_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    name = f"depotfs-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{name}" if abstract else str(tmp_path / "notify"))
        systemd.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}" if abstract else str(tmp_path / "notify"))
        notify.ready()
        assert systemd.recv(64) == b"READY=1"
        notify.stopping()
        assert systemd.recv(64) == b"STOPPING=1"
        monkeypatch.delenv("NOTIFY_SOCKET")
        notify.ready()
        systemd.setblocking(False)
        with pytest.raises(BlockingIOError):
            systemd.recv(64)
