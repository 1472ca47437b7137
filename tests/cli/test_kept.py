"""What a mount's end tells of bytes that are not stored, for as long as they are not."""

import os
import signal
from contextlib import suppress
from pathlib import Path

from depotfs.daemon.exits import Exit
from tests.cli.conftest import GatedCommand


def told(stderr: str) -> list[str]:
    """Which files were named, with why they are in the spool."""
    lines = [line for line in stderr.splitlines() if "kept in the spool" in line]
    return [f"{line.split(': ')[2]} {line.split(', ')[-1]}" for line in lines]


def test_what_is_not_stored_is_told_by_every_end_until_it_is(gated: GatedCommand) -> None:
    gated.mount()
    gated.write("one")
    for _ in range(2):
        ended = gated.umount("--now")
        assert (ended.returncode, told(ended.stderr)) == (Exit.BYTES_KEPT, ["photos/one pending"])
        gated.mount()
    gated.open_gate()
    ended = gated.umount()
    assert (ended.returncode, ended.stderr) == (0, "")


TOO_LARGE = """
from depotfs.errors import TooLarge
from third_party_storages import SixMethods

class Small(SixMethods):
    def _store(self, *rest):
        raise TooLarge("the tape holds 2 bytes")
"""


def test_what_can_never_be_stored_is_told_by_every_end_of_every_mount(gated: GatedCommand) -> None:
    Path(gated.directory, "lib", "small.py").write_text(TOO_LARGE)
    configured = Path(gated.directory, "depotfs.yaml").read_text()
    Path(gated.directory, "depotfs.yaml").write_text(configured.replace("third_party_storages.Gated", "small.Small"))
    gated.mount()
    (gated.mountpoint / "photos" / "one").write_text("one")
    for number in range(3):
        ended = gated.umount()
        assert ended.returncode == Exit.BYTES_KEPT
        assert told(ended.stderr) == ["photos/one held: the tape holds 2 bytes"]
        gated.mount()
        assert gated.log().count("WARNING in the spool: photos/one: 3 bytes, ") == number + 1


def test_what_waits_for_a_storage_that_is_not_configured_is_told_by_the_code_of_one_end(gated: GatedCommand) -> None:
    gated.mount()
    gated.write("one")
    assert gated.umount("--now").returncode == Exit.BYTES_KEPT
    before = Path(gated.directory, "depotfs.yaml").read_text()
    Path(gated.directory, "depotfs.yaml").write_text("storages: {other: {storage_path: other}}\n")
    for code in (Exit.BYTES_KEPT, Exit.OK, Exit.OK):
        gated.mount()
        ended = gated.umount()
        assert ended.returncode == code
        (line,) = told(ended.stderr)
        assert line.startswith("photos/one waiting: its storage ")
    Path(gated.directory, "depotfs.yaml").write_text(before)
    gated.open_gate()
    gated.mount()
    assert gated.umount().returncode == 0
    assert gated.contents() == ["one"]


def test_what_was_never_closed_is_named_but_no_promise(gated: GatedCommand) -> None:
    daemon = gated.mount()
    gated.open_gate()
    fd = os.open(gated.mountpoint / "photos" / "one", os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"never closed")
    os.kill(daemon, signal.SIGKILL)
    with suppress(OSError):
        os.close(fd)
    for _ in range(2):
        gated.mount()
        ended = gated.umount()
        assert ended.returncode == 0
        assert told(ended.stderr) == ["photos/one unclosed: it was never closed or synced"]
