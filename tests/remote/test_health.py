"""A storage that cannot be reached is not asked by everybody, and is asked again by itself."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable

import pytest
import trio

from depotfs.errors import AccessDenied, FileNotStored, StorageUnavailable, is_reported
from depotfs.io.content import BytesContent
from depotfs.io.memory import MemoryFileStorage
from depotfs.remote.health import LONGEST_DELAY, StorageDown
from depotfs.remote.remote import PROBE, Remote
from depotfs.types import FileId, FileMetadata, FileStat
from tests.remote.virtual import run_virtually

ROUND_TRIP = 0.02
SICK = FileId("590f20fd-d941-5e6d-b65e-8496d7f4da21")
WELL = FileId("590f20fd-d941-5e6d-b65e-8496d7f4da22")


class Shaky(MemoryFileStorage):
    """Memory that can be out of reach.

    Attributes:
        outage: what every call raises, None for none; sick: files of which alone it cannot answer.
        asked: (trio time, file id) of each call.
    """

    inline = False

    def __init__(self) -> None:
        super().__init__()
        self.outage: Exception | None = None
        self.sick: set[FileId] = set()
        self.asked: list[tuple[float, FileId]] = []

    def _reach(self, file_id: FileId) -> None:
        self.asked.append((trio.current_time(), file_id))
        if self.outage is not None:
            raise self.outage
        if file_id in self.sick:
            raise StorageUnavailable("500 InternalError")

    def stat(self, file_id: FileId) -> FileStat:
        self._reach(file_id)
        return super().stat(file_id)

    def remove(self, file_id: FileId, *, expect: str | None = None) -> None:
        self._reach(file_id)
        super().remove(file_id, expect=expect)


def run(
    monkeypatch: pytest.MonkeyPatch, test: Callable[[Shaky, Remote], Awaitable[None]], seconds: float = ROUND_TRIP
) -> None:
    """The test on a storage whose health is watched; a call takes `seconds`."""

    async def main() -> None:
        storage = Shaky()
        storage.put(BytesContent(b"x"), FileMetadata("x", "text/plain", 0), file_id=WELL)
        remote = Remote(storage, deadline=30)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(remote.health.run)
            await test(storage, remote)
            nursery.cancel_scope.cancel()

    run_virtually(monkeypatch, main, seconds=seconds)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


async def go_down(storage: Shaky, remote: Remote) -> None:
    storage.outage = StorageUnavailable("connection refused")
    with pytest.raises(StorageUnavailable):
        await remote.stat(WELL)
    assert remote.health.down is not None


def test_a_storage_that_is_down_fails_at_once_without_being_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(storage: Shaky, remote: Remote) -> None:
        await go_down(storage, remote)
        asked, began = len(storage.asked), trio.current_time()
        for _ in range(100):
            with pytest.raises(StorageDown) as told:
                await remote.find(WELL)
            assert is_reported(told.value)
            with pytest.raises(StorageDown):
                await remote.remove(WELL)
        assert trio.current_time() == began
        assert len(storage.asked) == asked
        storage.outage = None
        await trio.sleep(2 * LONGEST_DELAY)
        assert (await remote.stat(WELL)).size == 1

    run(monkeypatch, test)


def test_it_is_probed_again_and_again_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(storage: Shaky, remote: Remote) -> None:
        await go_down(storage, remote)
        storage.asked.clear()
        await trio.sleep(200)
        assert {file_id for _, file_id in storage.asked} == {PROBE}
        times = [at for at, _ in storage.asked]
        waits = [round(later - earlier) for earlier, later in itertools.pairwise(times)]
        assert waits == [2, 4, 8, 16, *5 * [30]]

    run(monkeypatch, test)


def test_the_log_tells_once_that_it_is_down_and_once_that_it_is_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    back: list[bool] = []

    async def test(storage: Shaky, remote: Remote) -> None:
        remote.health.came_back = lambda: back.append(remote.health.down is None)
        await go_down(storage, remote)
        for _ in range(9):
            with pytest.raises(StorageDown):
                await remote.stat(WELL)
        await trio.sleep(60)
        assert remote.health.down == "connection refused"
        assert 55 < remote.health.down_seconds < 65
        storage.outage = None
        await trio.sleep(LONGEST_DELAY)
        assert remote.health.down is None
        assert remote.health.down_seconds == 0

    run(monkeypatch, test)
    down, up = warnings(caplog)
    assert "is down" in down
    assert "connection refused" in down
    assert "is back after" in up
    assert "10 calls failed" in up
    assert back == [True]


def test_one_file_that_cannot_be_had_does_not_bring_the_storage_down(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(storage: Shaky, remote: Remote) -> None:
        storage.sick = {SICK}
        for _ in range(3):
            with pytest.raises(StorageUnavailable, match="InternalError"):
                await remote.stat(SICK)
            assert (await remote.stat(WELL)).size == 1
        assert remote.health.down is None

    run(monkeypatch, test)
    assert not warnings(caplog)


@pytest.mark.parametrize("answer", [AccessDenied("403"), FileNotStored("404"), RuntimeError("a bug")])
def test_whatever_a_probe_is_answered_is_an_answer(monkeypatch: pytest.MonkeyPatch, answer: Exception) -> None:
    async def test(storage: Shaky, remote: Remote) -> None:
        await go_down(storage, remote)
        storage.outage = answer
        await trio.sleep(3)
        assert remote.health.down is None

    run(monkeypatch, test)


def test_a_silent_storage_is_down_when_a_probe_is_not_answered_either(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(storage: Shaky, remote: Remote) -> None:
        with pytest.raises(StorageUnavailable, match="did not answer"):
            await remote.stat(WELL)
        assert trio.current_time() == 30
        await trio.sleep(11)
        with pytest.raises(StorageDown):
            await remote.stat(WELL)

    run(monkeypatch, test, seconds=10**6)


def test_a_change_that_fails_is_a_doubt_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(storage: Shaky, remote: Remote) -> None:
        storage.outage = StorageUnavailable("connection reset")
        with pytest.raises(StorageUnavailable, match="reset"):
            await remote.remove(WELL)
        await trio.sleep(2 * ROUND_TRIP)
        assert remote.health.down == "connection reset"

    run(monkeypatch, test)


def test_who_looks_waits_for_a_probe_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(storage: Shaky, remote: Remote) -> None:
        await remote.health.look()
        assert not storage.asked
        await go_down(storage, remote)
        await trio.sleep(100)
        began = trio.current_time()
        await remote.health.look()
        assert remote.health.down is not None
        storage.outage = None
        await remote.health.look()
        assert remote.health.down is None
        assert trio.current_time() - began < 4 * ROUND_TRIP

    run(monkeypatch, test)


def test_without_anybody_who_probes_it_is_never_down(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        storage = Shaky()
        storage.outage = StorageUnavailable("connection refused")
        remote = Remote(storage, deadline=30)
        for _ in range(3):
            with pytest.raises(StorageUnavailable, match="refused"):
                await remote.stat(WELL)
        assert remote.health.down is None

    run_virtually(monkeypatch, main)
