"""The command as a process, with places of its own for spools and logs."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from depotfs.daemon import control, mountpoint
from tests.mount import third_party
from tests.servers.process import missing


class Command:
    """Runs `depotfs` in a directory of its own.

    Attributes:
        directory: where it runs; mountpoint: an empty directory in it.
        module: what is run: `depotfs`, or a stand-in.
    """

    module = "depotfs"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.mountpoint = directory / "mnt"
        self.mountpoint.mkdir()
        self.environment = {
            **{key: value for key, value in os.environ.items() if key not in ("DEPOTFS_CONFIG", "STATE_DIRECTORY")},
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
            "XDG_STATE_HOME": str(directory / "state"),
        }

    def line(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", self.module, *arguments]

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

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """The command, running."""
        given = {"cwd": self.directory, "env": self.environment, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(self.line(*arguments), **{**given, **options})

    def mount(self, *arguments: str) -> int:
        """A daemon serves in the background; its process id."""
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            missing("FUSE")
        ended = self.run("mount", "--daemon", *arguments, str(self.mountpoint))
        assert ended.returncode == 0, ended.stderr
        return int(self.ask("status")["pid"])

    def umount(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("umount", *arguments, str(self.mountpoint), **environment)

    def ask(self, request: str) -> control.Message:
        """What the daemon of the mount answers."""
        mounted = mountpoint.find(str(self.mountpoint))
        assert mounted is not None
        return control.ask(mounted, request, 30)

    @property
    def mounted(self) -> bool:
        return mountpoint.find(str(self.mountpoint)) is not None

    def log(self) -> str:
        (file,) = (self.directory / "state" / "depotfs" / "log").iterdir()
        return file.read_text()


class GatedCommand(Command):
    """Its storage stores in the background, and nothing before `open_gate`."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.store = directory / "store"
        library = third_party.install(directory / "lib")
        (directory / "depotfs.yaml").write_text(
            f"python_path: {library}\nmount: {{commit: background}}\n"
            f"storages: {{photos: {{backend: third_party_storages.Gated, directory: {self.store}}}}}\n"
        )

    def write(self, name: str) -> None:
        """A file is acknowledged, and its upload waits at the gate."""
        (self.mountpoint / "photos" / name).write_text(name)
        while not (self.store / "knocked").exists():
            os.sched_yield()

    def open_gate(self) -> None:
        (self.store / "gate").touch()

    def contents(self) -> list[str]:
        return sorted(path.read_text() for path in self.store.glob("*.bin"))


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    made = Command(tmp_path)
    yield made
    clean(made)


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[GatedCommand]:
    made = GatedCommand(tmp_path)
    yield made
    clean(made)


def clean(command: Command) -> None:
    """Nothing of it runs or is mounted."""
    if command.mounted:
        command.umount("--now")
    if command.mounted:
        mountpoint.detach(str(command.mountpoint))
