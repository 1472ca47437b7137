"""A FUSE mount that nobody serves: what is left when a daemon is killed."""

import array
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.process import missing


@contextmanager
def dead_mount(path: Path, subtype: str = "depotfs") -> Iterator[None]:
    """While inside, a mount of the type `fuse.<subtype>` whose daemon is gone is at `path`, unless detached.

    fusermount3 hands the descriptor over a socket, as libfuse gets it; it is closed at once.
    """
    if not shutil.which("fusermount3") or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        missing("FUSE")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        subprocess.run(
            ["fusermount3", "-o", f"subtype={subtype},fsname=test", "--", str(path)],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            check=True,
        )
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_LEN(4))
    os.close(array.array("i", ancillary[0][2])[0])
    try:
        yield
    finally:
        subprocess.run(["fusermount3", "-u", "-z", "-q", str(path)], check=False, capture_output=True)
