"""The local storage beside the reference in memory: whatever is done, both tell the same."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from depotfs.errors import DepotError
from depotfs.io.content import BytesContent
from depotfs.io.interfaces import FileStorage
from depotfs.io.local import LocalFileStorage
from depotfs.io.memory import MemoryFileStorage
from depotfs.types import ABSENT, ANY, PRESENT, Expected, FileId, FileMetadata, FileStat
from tests.io.contract_sources import ABSENT_IDS, content_of

FILES = st.sampled_from([*ABSENT_IDS, FileId("3774a1a0-0879-11e4-b658-0800277ee230")])
DATA = st.binary(max_size=20)
NAMES = st.text(st.characters(exclude_categories=[]), min_size=1, max_size=10)
METADATA = st.builds(FileMetadata, NAMES, NAMES, st.integers(-(10**10), 10**11))
RECENT = st.integers(1, 5)
# What to expect: one of the words, or the version of the n-th last stat that was seen of any file.
EXPECTATIONS = st.sampled_from([ANY, ABSENT, PRESENT]) | RECENT


class BothStorages(RuleBasedStateMachine):
    """The same calls to two storages; versions are paired by the call that gave them."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.mkdtemp(prefix="depotfs-model-")
        self.storages: list[FileStorage] = [LocalFileStorage(self.directory), MemoryFileStorage()]
        self.seen: list[list[FileStat]] = []

    def teardown(self) -> None:
        shutil.rmtree(self.directory)

    def both(self, call: Callable[[FileStorage, int], Any]) -> None:
        """What both return means the same, or both raise the same class."""
        outcomes: list[Any] = []
        for number, storage in enumerate(self.storages):
            try:
                outcomes.append(call(storage, number))
            except DepotError as error:
                outcomes.append(type(error))
        if isinstance(outcomes[0], FileStat):
            assert _told(outcomes[0]) == _told(outcomes[1])
            self.seen.append(outcomes)
        else:
            assert outcomes[0] == outcomes[1]

    def expectation(self, file_id: FileId, chosen: Expected | int, number: int) -> Expected:
        """A number is one of the last versions of that file: what a version of another one means is left open."""
        if not isinstance(chosen, int):
            return chosen
        seen = [stats[number].version for stats in self.seen if stats[number].file_id == file_id]
        return seen[-chosen] if chosen <= len(seen) else "never seen"

    @rule(file_id=FILES, data=DATA, metadata=METADATA, expect=EXPECTATIONS)
    def put(self, file_id: FileId, data: bytes, metadata: FileMetadata, expect: Expected | int) -> None:
        self.both(
            lambda storage, number: storage.put(
                BytesContent(data), metadata, file_id=file_id, expect=self.expectation(file_id, expect, number)
            )
        )

    @rule(file_id=FILES, expect=EXPECTATIONS.filter(lambda expect: expect not in (ABSENT, PRESENT)))
    def remove(self, file_id: FileId, expect: Expected | int) -> None:
        self.both(lambda storage, number: storage.remove(file_id, expect=self.expectation(file_id, expect, number)))

    @rule(which=RECENT, name=NAMES | st.none(), kind=NAMES | st.none(), modified=st.integers(0, 9) | st.none())
    def update(self, which: int, name: str | None, kind: str | None, modified: int | None) -> None:
        if which <= len(self.seen):
            stats = self.seen[-which]
            self.both(
                lambda storage, number: (
                    storage.update(stats[number], filename=name, content_type=kind, modified=modified).metadata.filename
                    and storage.stat(stats[number].file_id)
                )
            )

    @rule(which=RECENT, file_id=FILES, metadata=METADATA, expect=EXPECTATIONS)
    def copy(self, which: int, file_id: FileId, metadata: FileMetadata, expect: Expected | int) -> None:
        if which <= len(self.seen):
            stats = self.seen[-which]
            self.both(
                lambda storage, number: storage.copy(
                    stats[number], file_id, metadata, expect=self.expectation(file_id, expect, number)
                )
            )

    @rule(which=RECENT, file_id=FILES, metadata=METADATA, expect=EXPECTATIONS)
    def move(self, which: int, file_id: FileId, metadata: FileMetadata, expect: Expected | int) -> None:
        if which <= len(self.seen):
            stats = self.seen[-which]
            self.both(
                lambda storage, number: storage.move(
                    stats[number], file_id, metadata, expect=self.expectation(file_id, expect, number)
                )
            )

    @rule(file_id=FILES, data=DATA)
    def replace(self, file_id: FileId, data: bytes) -> None:
        self.both(lambda storage, number: storage.replace(file_id, data))

    @invariant()
    def tell_the_same(self) -> None:
        local, memory = self.storages
        assert sorted(local.list()) == sorted(memory.list())
        for file_id in map(FileId, memory.list()):
            assert content_of(local, file_id) == content_of(memory, file_id)
            assert local.stat(file_id).metadata.filename == memory.stat(file_id).metadata.filename


def _told(stat: FileStat) -> tuple[object, ...]:
    return stat.file_id, stat.size, stat.metadata.filename, stat.metadata.content_type


TestBothStorages = BothStorages.TestCase
TestBothStorages.settings = settings(
    max_examples=30, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
