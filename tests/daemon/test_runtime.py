"""The record of a mount, and where things are kept."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depotfs.daemon import runtime
from depotfs.daemon.exits import CommandFailed, Exit
from depotfs.daemon.runtime import MountRecord
from depotfs.daemon.settings import Settings

MOUNTPOINT = "/srv/photos"
PATHS = st.lists(st.text("ab-\\x2d. é\udc80", min_size=1, max_size=150), min_size=1, max_size=3).map(
    lambda parts: "/" + "/".join(parts)
)


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where records are during a test."""
    path = tmp_path / "run"
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(path))
    return path


def test_escaping_is_readable() -> None:
    assert runtime.escape("/srv/photos") == "srv-photos"
    assert runtime.escape("/srv/my-photos/.x") == r"srv-my\x2dphotos-.x"
    assert runtime.escape("/") == "-"


@given(PATHS, PATHS)
def test_every_path_has_a_file_name_of_its_own(one: str, other: str) -> None:
    name = runtime.escape(one)
    assert "/" not in name
    assert 0 < len(name.encode()) <= 200
    assert name not in (".", "..")
    assert (name == runtime.escape(other)) == (one.strip("/") == other.strip("/"))


def test_a_daemon_is_on_record_until_it_ends_cleanly() -> None:
    assert runtime.find_record(MOUNTPOINT) is None
    runtime.write_record(MOUNTPOINT)
    record = runtime.find_record(MOUNTPOINT)
    assert record is not None
    assert (record.pid, record.mountpoint, record.outcome) == (os.getpid(), MOUNTPOINT, None)
    assert record.is_alive()
    runtime.write_outcome(MOUNTPOINT, Exit.OK)
    assert runtime.find_record(MOUNTPOINT) is None


def test_what_is_kept_stays_on_record_after_the_end() -> None:
    runtime.write_record(MOUNTPOINT)
    runtime.write_outcome(MOUNTPOINT, Exit.BYTES_KEPT, ["avatars/photo.jpg", "avatars/other.jpg"])
    runtime.write_outcome(MOUNTPOINT, Exit.BYTES_KEPT)
    record = runtime.find_record(MOUNTPOINT)
    assert record is not None
    assert not record.is_alive()
    assert (record.outcome, record.kept) == (Exit.BYTES_KEPT, ("avatars/photo.jpg", "avatars/other.jpg"))


def test_the_record_of_another_daemon_is_left_alone(directory: Path) -> None:
    other = MountRecord(pid=1, started=runtime.start_time(1) or 0, mountpoint=MOUNTPOINT)
    directory.mkdir()
    (directory / "srv-photos.json").write_text(json.dumps(asdict(other)))
    assert runtime.find_record(MOUNTPOINT) is not None
    runtime.write_outcome(MOUNTPOINT, Exit.UNEXPECTED)
    assert runtime.find_record(MOUNTPOINT) == other


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"pid": 1, "surprise": 2}'])
def test_a_record_that_cannot_be_understood_is_none(directory: Path, text: str) -> None:
    directory.mkdir()
    (directory / "srv-photos.json").write_text(text)
    assert runtime.find_record(MOUNTPOINT) is None


def test_another_process_with_the_same_pid_is_not_the_daemon() -> None:
    started = runtime.start_time(os.getpid())
    assert started is not None
    assert MountRecord(os.getpid(), started, MOUNTPOINT).is_alive()
    assert not MountRecord(os.getpid(), started - 1, MOUNTPOINT).is_alive()


def test_a_process_that_ended_is_not_alive_though_nobody_waited_for_it() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        started = runtime.start_time(child.pid)
        assert started is not None
        record = MountRecord(child.pid, started, MOUNTPOINT)
        assert record.is_alive()
        child.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not record.is_alive()
    finally:
        child.kill()
        child.communicate()
    assert runtime.start_time(child.pid) is None


def test_the_directory_in_tmp_must_be_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = runtime._own_directory(tmp_path / "own")
    assert own.stat().st_mode & 0o777 == 0o700
    own.chmod(0o770)
    with pytest.raises(CommandFailed, match="only its owner"):
        runtime._own_directory(own)
    own.chmod(0o700)
    link = tmp_path / "link"
    link.symlink_to(own)
    with pytest.raises(CommandFailed):
        runtime._own_directory(link)
    monkeypatch.setattr(os, "geteuid", lambda: own.stat().st_uid + 1)
    with pytest.raises(CommandFailed):
        runtime._own_directory(own)


def test_the_spool_is_the_configured_directory_or_one_per_mountpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", "/home/me/state")
    embedded = Settings((), "default")
    assert runtime.spool_directory(embedded, MOUNTPOINT) == "/home/me/state/depotfs/spool/srv-photos"
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/depotfs:/var/lib/other")
    assert runtime.spool_directory(embedded, MOUNTPOINT) == "/var/lib/depotfs/spool/srv-photos"
    assert runtime.spool_directory(Settings((), "default", spool_directory="/spool"), MOUNTPOINT) == "/spool"
