"""Settings: a checked configuration as frozen values; what is not set has its default here.

Sizes are bytes, durations seconds, modes and owners as chmod(2) and chown(2) take them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

MIB = 1 << 20


class CommitMode(enum.Enum):
    """When close(2) of a changed file returns."""

    CLOSE = "close"
    """Once the storage has accepted the bytes."""
    BACKGROUND = "background"
    """Once the spool has them on the disk; the storage gets them soon after."""


@dataclass(frozen=True, slots=True)
class MountSettings:
    """How one storage behaves as a directory.

    Attributes:
        commit: when close(2) returns.
        attr_timeout: seconds for which what the mount knows of a file is not asked for again; 0: always asked.
        scratch: shell patterns of names whose commit waits until they are renamed.
        scratch_delay: seconds after the last close at which such a file is committed all the same.
        deadline: seconds that one call to the storage may take.
        read_only: every change is refused with EROFS.
        file_mode, dir_mode: permission bits, None for 0644 and 0755 less the umask.
        uid, gid: owner of everything, None for whoever mounts.
    """

    commit: CommitMode = CommitMode.CLOSE
    attr_timeout: float = 1.0
    scratch: tuple[str, ...] = (".*", "*~", "4913")
    scratch_delay: float = 300.0
    deadline: float = 60.0
    read_only: bool = False
    file_mode: int | None = None
    dir_mode: int | None = None
    uid: int | None = None
    gid: int | None = None


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """One configured storage.

    Attributes:
        name: its directory below the mountpoint.
        backend: dotted path of its class, as configured (`depot.io.…` is not yet resolved to ours).
        options: constructor arguments, checked against the class's signature; paths are absolute.
    """

    name: str
    backend: str
    options: dict[str, object]
    mount: MountSettings = MountSettings()


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a mount needs to know.

    Attributes:
        storages: at least one, in the order of the file.
        default: name of a storage.
        aliases: alias → name of a storage.
        mount: what holds for every storage that says nothing else.
        spool_directory: absolute path where bytes on their way to a storage are kept, None for the usual place.
        spool_size: bytes that the spool may take on its disk, None for all that is free.
        cache_size: bytes of content that are kept in memory for readers.
        allow_other: users other than the one who mounts may enter.
        python_path: absolute directories in which classes of the user's own are looked for.
        source: the file all this was read from, None for the embedded defaults.
    """

    storages: tuple[StorageSettings, ...]
    default: str
    aliases: dict[str, str] = field(default_factory=dict)
    mount: MountSettings = MountSettings()
    spool_directory: str | None = None
    spool_size: int | None = None
    cache_size: int = 96 * MIB
    allow_other: bool = False
    log_level: str = "INFO"
    python_path: tuple[str, ...] = ()
    source: str | None = None
