"""A target is where the bytes of a spool file are to go, and on which terms."""

from __future__ import annotations

from dataclasses import dataclass

from depotfs.types import Expected, FileId


@dataclass(frozen=True, slots=True)
class Target:
    """All that a commit needs beside the bytes.

    Attributes:
        storage: the configured name, for people; the daemon goes by `identity`.
        identity: what the storage is (kind, endpoint, bucket or path, prefix).
        name: the scratch or plain name that the file was made by, None if by its id.
        modified: whole seconds since the epoch, None: the time of the commit.
        expect: what the commit is conditional on, see `depotfs.types.Expected`.
        commit: id of the commit, "" until there is one.
    """

    storage: str
    identity: str
    file_id: FileId
    name: str | None
    filename: str
    content_type: str
    modified: int | None
    expect: Expected
    commit: str
