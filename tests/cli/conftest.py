"""The command as a process, with places of its own for records, spools and logs."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from depotfs.daemon import mountpoint
from depotfs.daemon.runtime import MountRecord, find_record


class Command:
    """Runs `depotfs`, whose daemon mounts nothing, in a directory of its own.

    Attributes:
        directory: where it runs; mountpoint: an empty directory in it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.mountpoint = directory / "mnt"
        self.mountpoint.mkdir()
        self.environment = {
            **{key: value for key, value in os.environ.items() if key not in ("DEPOTFS_CONFIG", "STATE_DIRECTORY")},
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
            "RUNTIME_DIRECTORY": str(directory / "run"),
            "XDG_STATE_HOME": str(directory / "state"),
        }

    def line(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "tests.cli.standin", *arguments]

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """The command, ended, with what it printed."""
        return subprocess.run(
            self.line(*arguments),
            cwd=self.directory,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def mount(self, *arguments: str, **environment: str) -> MountRecord:
        """A daemon serves in the background; what is on record of it."""
        ended = self.run("mount", "--daemon", *arguments, str(self.mountpoint), **environment)
        assert ended.returncode == 0, ended.stderr
        record = self.record()
        assert record is not None
        return record

    def umount(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("umount", *arguments, str(self.mountpoint))

    def record(self) -> MountRecord | None:
        return find_record(str(self.mountpoint))

    def log(self) -> str:
        (file,) = (self.directory / "state" / "depotfs" / "log").iterdir()
        return file.read_text()


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    made = Command(tmp_path)
    yield made
    record = made.record()
    if record is not None and record.is_alive():
        with suppress(ProcessLookupError):
            os.kill(record.pid, signal.SIGKILL)
    if mountpoint.find_type(str(made.mountpoint)) == mountpoint.FILESYSTEM:
        mountpoint.detach(str(made.mountpoint))
