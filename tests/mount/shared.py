"""A mount that the tests of one kind of storage share."""

from __future__ import annotations

from dataclasses import dataclass

from tests.mount.harness import Mount
from tests.mount.storages import StorageUnderTest
from tests.posix.place import Place


@dataclass
class SharedMount:
    """A mount of two storages of one kind, `files` and `other`, and an alias `same` for the first."""

    mount: Mount
    files: StorageUnderTest
    other: StorageUnderTest

    def place(self, name: str = "files") -> Place:
        """A directory of the mount as the checks take it."""
        return Place(
            self.mount.path / name,
            listed_as=self.files.derive,
            flat=True,
            utf8_only=True,
            remote=self.files.remote,
        )
