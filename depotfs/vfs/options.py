"""How one storage behaves as a directory, with everything decided: no None left."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class VolumeOptions:
    """Durations in seconds, modes and owners as stat(2) shows them.

    Attributes:
        background: close(2) returns when the spool has the bytes durably; else when the storage has them.
        attr_timeout: for how long what is known of a file is not asked for again.
        scratch: shell patterns of names whose commit waits for a rename.
        scratch_delay: after which time since its last close such a file is committed all the same.
        read_only: every change is refused.
    """

    background: bool = False
    attr_timeout: float = 1.0
    scratch: tuple[str, ...] = (".*", "*~", "4913")
    scratch_delay: float = 300.0
    read_only: bool = False
    file_mode: int = 0o644
    dir_mode: int = 0o755
    uid: int = 0
    gid: int = 0
