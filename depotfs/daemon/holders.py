"""Holders: which processes keep a mount from being unmounted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def find_holders(mountpoint: str) -> list[str]:
    """A line for each other process that has something of the mount open, as far as this user may see (proc(5)).

    Asks the kernel alone; a mapped file whose descriptor is closed is not found.
    """
    processes = {int(path.name): path for path in Path("/proc").glob("[0-9]*")}
    found = []
    for pid in sorted(processes.keys() - {os.getpid()}):
        with suppress(OSError):  # it ended, or is somebody else's
            uses = [use for use, target in _uses(processes[pid]) if f"{target}/".startswith(f"{mountpoint}/")]
            if uses:
                name = (processes[pid] / "comm").read_text(errors="replace").strip()
                found.append(f"{name} (process {pid}): {', '.join(dict.fromkeys(uses))}")
    return found


def _uses(process: Path) -> Iterator[tuple[str, str]]:
    """What the process has a hold of, and how; links of /proc are read without touching what they lead to."""
    for link, use in (("cwd", "working directory"), ("root", "root directory"), ("exe", "program")):
        with suppress(OSError):
            yield use, os.readlink(process / link)
    for descriptor in os.listdir(process / "fd"):
        with suppress(OSError):
            target = os.readlink(process / "fd" / descriptor)
            yield target, target
