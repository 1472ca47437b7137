"""Faults at a chosen step of a local storage's work: an error, or the end of the process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from depotfs import disk
from depotfs.io import local, localcontent, localplace, staging, stagingplace

STEPS = frozenset(
    {
        "copy_file_range",
        "dup",
        "fchmod",
        "fchown",
        "fsync",
        "link",
        "listdir",
        "lstat",
        "makedirs",
        "mkdir",
        "open",
        "rename",
        "rmdir",
        "stat",
        "unlink",
        "utime",
        "write",
    }
)
"""What reaches into the file system and can fail: all but calls on descriptors that only ask or close."""


class Steps:
    """Counts the calls into the file system and calls `fault` in place of call number `at` (1 is the first).

    Args:
        only: name of the calls that are counted, all by default.
        onwards: `fault` takes the place of the later ones, too.

    Attributes:
        count: calls so far; reached: the name of the call that the fault took the place of.
    """

    def __init__(self, at: int, fault: Callable[[], None], only: str | None = None, *, onwards: bool = False) -> None:
        self.count = 0
        self.reached: str | None = None
        self._at = at
        self._fault = fault
        self._only = only
        self._onwards = onwards

    def step(self, name: str) -> None:
        if self._only not in (None, name):
            return
        self.count += 1
        if self.count == self._at or (self._onwards and self.count > self._at):
            self.reached = name
            self._fault()

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for module in (local, localcontent, localplace, staging, stagingplace, disk):
            patch.setattr(module, "os", _CountingOs(self))
        renameat2 = disk._renameat2

        def counted(*arguments: Any) -> None:
            self.step("renameat2")
            renameat2(*arguments)

        patch.setattr(disk, "_renameat2", counted)


class _CountingOs:
    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in STEPS:
            return real

        def counted(*arguments: Any, **options: Any) -> Any:
            self._steps.step(name)
            return real(*arguments, **options)

        return counted


def without_exchange(patch: pytest.MonkeyPatch) -> None:
    """As on a file system that cannot exchange two names."""

    def refuse(one: str, other: str, **options: Any) -> None:
        raise OSError(22, "Invalid argument", one, None, other)

    patch.setattr(disk, "exchange", refuse)


def in_child(run: Callable[[], object]) -> int:
    """Runs it in a forked process; its exit code: 0, 1 for an exception, or what `os._exit` was given.

    One that hangs is killed after 30 s: -14.
    """
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    signal.alarm(30)
    code = 1
    try:
        run()
        code = 0
    finally:
        os._exit(code)
