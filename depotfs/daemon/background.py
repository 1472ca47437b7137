"""Background: a process that goes on after the command that started it, which waits until it is of use."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from depotfs.daemon.exits import Exit


def run_in_background(run: Callable[[Callable[[], None]], int], log_file: str) -> int:
    """`run` goes on in a child of its own session; its `ready` argument lets the parent return 0.

    Until then the child writes to the parent's stderr, afterwards to the end of the log file. If it ends
    before, its exit code is returned. Call it before threads, event loops and SDKs exist: only the calling
    thread survives a fork.

    Raises:
        SystemExit: in the child, when `run` returns; with what it returned. `ready` raises OSError if the log
            file cannot be opened.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child:
        os.close(write_end)
        return _wait_ready(child, read_end)
    os.close(read_end)
    os.setsid()
    _redirect(os.open(os.devnull, os.O_RDONLY), 0)

    def ready() -> None:
        sys.stdout.flush()
        log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        _redirect(os.dup(log), 1)
        _redirect(log, 2)
        os.write(write_end, b"1")
        os.close(write_end)

    raise SystemExit(run(ready))


def _redirect(source: int, target: int) -> None:
    if source != target:
        os.dup2(source, target)
        os.close(source)


def _wait_ready(child: int, read_end: int) -> int:
    """0 once the child said it is ready; its exit code if it ended without a word."""
    try:
        if os.read(read_end, 1):
            return Exit.OK
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
    finally:
        os.close(read_end)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code > 0 else Exit.UNEXPECTED
