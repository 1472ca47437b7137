"""What processes exclude each other from: locks and exclusive creation."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

from tests.posix.place import Place, opened, refused

_TRY = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
try:
    {call}
except BlockingIOError:
    print("refused")
else:
    print("granted")
"""


def _other_process(path: Path, call: str) -> str:
    command = [sys.executable, "-c", _TRY.format(call=call), str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def check_flock(place: Place) -> None:
    path = place / "flock"
    path.write_bytes(b"x")
    exclusive, shared = (f"fcntl.flock(fd, fcntl.LOCK_{kind} | fcntl.LOCK_NB)" for kind in ("EX", "SH"))
    with opened(path, os.O_RDWR) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)
        assert _other_process(path, exclusive) == "refused"
        assert _other_process(path, shared) == "refused"
        with opened(path, os.O_RDONLY) as other, refused(errno.EWOULDBLOCK):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_SH)
        assert _other_process(path, shared) == "granted"
        assert _other_process(path, exclusive) == "refused"
        fcntl.flock(fd, fcntl.LOCK_UN)
        assert _other_process(path, exclusive) == "granted"
        fcntl.flock(fd, fcntl.LOCK_EX)
    assert _other_process(path, exclusive) == "granted"


def check_record_locks(place: Place) -> None:
    path = place / "records"
    path.write_bytes(b"0123456789")
    with opened(path, os.O_RDWR) as fd:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 0)
        assert _other_process(path, "fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 2)") == "refused"
        assert _other_process(path, "fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 5)") == "granted"
        fcntl.lockf(fd, fcntl.LOCK_UN, 5, 0)
        assert _other_process(path, "fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)") == "granted"


def check_exclusive_creation_race(place: Place) -> None:
    """Of many processes that make one name with O_EXCL, one succeeds."""
    path = place / "race"
    code = (
        "import os, sys\n"
        "sys.stdin.read()\n"
        "try:\n"
        "    os.write(os.open(sys.argv[1], os.O_CREAT | os.O_EXCL | os.O_WRONLY), sys.argv[2].encode())\n"
        "    print(sys.argv[2])\n"
        "except FileExistsError:\n"
        "    pass\n"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path), str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for number in range(4)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.close()
        racer.stdin = None
    winners = [line for racer in racers for line in racer.communicate(timeout=30)[0].decode().split()]
    assert len(winners) == 1
    assert path.read_text() == winners[0]


def check_appending_processes(place: Place) -> None:
    """Lines that two processes append to one file all arrive, each in one piece."""
    path = place / "log"
    path.write_bytes(b"")
    code = (
        "import os, sys\n"
        "fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)\n"
        "for number in range(100):\n"
        "    os.write(fd, b'%s %03d\\n' % (sys.argv[2].encode(), number))\n"
        "os.close(fd)\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in ("a", "b")]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    lines = path.read_text().splitlines()
    assert sorted(lines) == [f"{name} {number:03d}" for name in ("a", "b") for number in range(100)]
