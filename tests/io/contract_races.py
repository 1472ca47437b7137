"""The contract's fourth part: several threads at one file."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from depotfs.errors import AlreadyStored, VersionChanged
from depotfs.io.interfaces import FileStorage
from depotfs.types import ABSENT, FileId, FileMetadata
from tests.io.contract_sources import ABSENT_IDS, METADATA, content_of, put

RACERS = 8
FILE = ABSENT_IDS[0]


def _race(run: Callable[[int], object]) -> list[object]:
    """What each of the racers' calls returned or raised."""
    start = threading.Barrier(RACERS)

    def racer(number: int) -> object:
        start.wait()
        try:
            return run(number)
        except Exception as error:
            return error

    with ThreadPoolExecutor(RACERS) as pool:
        return list(pool.map(racer, range(RACERS)))


def _only_winner(results: list[object], loses_by: type[Exception]) -> int:
    winners = [number for number, result in enumerate(results) if not isinstance(result, Exception)]
    assert [type(result) for result in results if isinstance(result, Exception)] == [loses_by] * (RACERS - 1), results
    return winners[0]


class RacesContract:
    """Whatever happens at once, every reader sees one whole content, and every condition holds."""

    def test_one_of_many_makers_wins(self, storage: FileStorage) -> None:
        results = _race(lambda number: put(storage, b"%d" % number * 1000, FILE, expect=ABSENT))
        winner = _only_winner(results, AlreadyStored)
        assert content_of(storage, FILE) == b"%d" % winner * 1000
        assert storage.list() == [FILE]

    def test_one_of_many_replacers_of_a_version_wins(self, storage: FileStorage) -> None:
        base = put(storage, b"base", FILE)
        results = _race(lambda number: put(storage, b"%d" % number * 1000, FILE, expect=base.version))
        winner = _only_winner(results, VersionChanged)
        assert content_of(storage, FILE) == b"%d" % winner * 1000
        assert storage.stat(FILE) == results[winner]

    def test_unconditional_writers_all_succeed(self, storage: FileStorage) -> None:
        results = _race(lambda number: put(storage, b"%d" % number * 1000, FILE))
        assert [result for result in results if isinstance(result, Exception)] == []
        assert content_of(storage, FILE) in [b"%d" % number * 1000 for number in range(RACERS)]
        assert storage.list() == [FILE]

    def test_replacers_that_keep_the_name_all_succeed(self, storage: FileStorage) -> None:
        put(storage, b"base", FILE)
        results = _race(lambda number: storage.replace(FILE, b"%d" % number * 1000))
        assert results == [FILE] * RACERS
        assert content_of(storage, FILE) in [b"%d" % number * 1000 for number in range(RACERS)]
        assert storage.get(FILE).filename == METADATA.filename

    def test_readers_see_whole_contents(self, storage: FileStorage) -> None:
        """Content number n is n bytes of value n, and named so: any mix shows."""
        first, last, scale = 1, 20, 20_000

        def write(number: int) -> None:
            put(storage, bytes([number]) * number * scale, FILE, metadata=_named(number))

        def check(size: int, data: bytes, name: str | None = None) -> None:
            assert size == len(data)
            assert data == bytes([data[0]]) * data[0] * scale
            assert name in (None, f"name-{data[0]}")

        def by_file() -> None:
            file = storage.get(FILE)
            data = file.read()
            check(len(data), data)

        def by_reader() -> None:
            reader = storage.open_content(FileId(FILE))
            try:
                middle = reader.stat.size // 2
                data = reader.pread(0, middle) + reader.pread(middle, reader.stat.size)
            except VersionChanged:
                return
            finally:
                reader.close()
            check(reader.stat.size, data, reader.stat.metadata.filename)

        write(first)
        done = threading.Event()

        def read_until_done(read: Callable[[], None]) -> int:
            reads = 0
            while not done.is_set() or not reads:
                read()
                assert storage.exists(FILE)
                assert storage.list() == [FILE]
                reads += 1
            return reads

        with ThreadPoolExecutor(4) as pool:
            readers = [pool.submit(read_until_done, read) for read in (by_file, by_reader)]
            try:
                for number in range(first + 1, last + 1):
                    write(number)
            finally:
                done.set()
            assert all(reader.result() for reader in readers)
        assert content_of(storage, FILE) == bytes([last]) * last * scale

    def test_writers_and_removers(self, storage: FileStorage) -> None:
        def act(number: int) -> None:
            for _ in range(5):
                if number % 2:
                    storage.remove(FILE)
                else:
                    put(storage, b"%d" % number * 1000, FILE)

        results = _race(act)
        assert [result for result in results if isinstance(result, Exception)] == []
        put(storage, b"last", FILE)
        assert content_of(storage, FILE) == b"last"
        assert storage.list() == [FILE]


def _named(number: int) -> FileMetadata:
    return FileMetadata(f"name-{number}", METADATA.content_type, METADATA.modified)
