"""`depotfs status`."""

import json
import os
import signal

from depotfs.daemon.exits import Exit
from tests.cli.conftest import Command, GatedCommand

REFUSING = """
from third_party_storages import SixMethods

class Refusing(SixMethods):
    def _store(self, *rest):
        raise OSError(5, "the tape is torn\\nat 3 m")
"""


def test_what_is_mounted_is_told(command: Command) -> None:
    (command.directory / "depotfs.yaml").write_text("storages: {a: {storage_path: files}}\naliases: {b: a}\n")
    daemon = command.mount()
    lines = command.run("status", "mnt").stdout.splitlines()
    assert lines[0].endswith(f", process {daemon}")
    assert lines[1:3] == ["  a: depotfs.io.local.LocalFileStorage", "  b -> a"]
    assert lines[3].startswith(f"0 files (0 bytes) wait in the spool {command.directory}/state/depotfs/spool/")
    assert len(lines) == 4


def test_what_waits_is_told_with_its_reason(gated: GatedCommand) -> None:
    (gated.directory / "lib" / "refusing.py").write_text(REFUSING)
    configured = (gated.directory / "depotfs.yaml").read_text()
    (gated.directory / "depotfs.yaml").write_text(configured.replace("third_party_storages.Gated", "refusing.Refusing"))
    gated.mount()
    (gated.mountpoint / "photos" / "one").write_text("1")
    while "tried again" not in gated.log():
        os.sched_yield()
    (line,) = gated.run("status", "mnt").stdout.splitlines()[3:]
    assert line.startswith("  photos/one: 1 bytes, ")
    assert ", spool file 1, pending: " in line
    assert "the tape is torn at 3 m" in line
    told = json.loads(gated.run("status", "--json", "mnt").stdout)
    (file,) = told["files"]
    assert (file["storage"], file["filename"], file["why"]) == ("photos", "one", "pending")
    ended = gated.umount()
    assert ended.returncode == Exit.BYTES_KEPT
    assert "the tape is torn" in ended.stderr


def test_a_mount_that_cannot_tell_is_no_success(command: Command) -> None:
    assert command.run("status", "mnt").returncode == Exit.NOT_MOUNTED
    os.kill(command.mount(), signal.SIGKILL)
    ended = command.run("status", "mnt")
    assert ended.returncode == Exit.NOT_ASKED
    assert "cannot be asked" in ended.stderr
    assert command.mounted
