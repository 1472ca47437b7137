"""Files fetched before they are asked for: how many requests it takes, and that nothing old is ever shown."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from depotfs.cache.walk import Walk
from depotfs.io.content import BytesContent
from depotfs.types import FileEntry, FileId, FileMetadata, FileStat
from depotfs.vfs import ahead
from depotfs.vfs.ahead import Listed
from depotfs.vfs.attr import Attr
from depotfs.vfs.knowledge import Knowledge
from depotfs.vfs.names import derive
from depotfs.vfs.nodes import stable_ino
from depotfs.vfs.options import VolumeOptions
from tests.remote.virtual import run_virtually
from tests.vfs.harness import PlainListing, Tree, mounted

COUNT = 60
IDS = [FileId(f"00000000-0000-4000-8000-{number:012}") for number in range(COUNT)]


def content(number: int) -> bytes:
    return f"content of {number} ".encode() * 100


def stored(count: int = COUNT) -> PlainListing:
    """A storage with so many files, each with a time of its own."""
    storage = PlainListing()
    for number, file_id in enumerate(IDS[:count]):
        put(storage, file_id, content(number), number)
    storage.requests.clear()
    return storage


def put(storage: PlainListing, file_id: FileId, data: bytes, modified: int) -> None:
    storage.put(BytesContent(data), FileMetadata("f", "text/plain", modified), file_id=file_id)


def run(
    test: Callable[[Tree], Awaitable[None]], storage: PlainListing, directory: Path, timeout: float = 60.0
) -> Counter[str]:
    """How many requests of each kind were made while the test ran on the mounted storage."""

    async def main() -> None:
        async with mounted(storage, directory, VolumeOptions(attr_timeout=timeout)) as tree:
            await test(tree)

    trio.run(main)
    return Counter(what for what, _ in storage.requests)


async def listed(tree: Tree) -> dict[str, Attr]:
    """Attributes by name, as the kernel keeps them: with references, until the tree is gone."""
    attrs: dict[str, Attr] = {}
    fh = await tree.fs.opendir(tree.directory)

    def take(name: bytes, attr: Attr, following: int) -> bool:
        attrs[name.decode()] = attr
        return True

    await tree.fs.readdir(fh, 0, take)
    await tree.fs.releasedir(fh)
    return attrs


async def copied(tree: Tree, node_id: int) -> bytes:
    """What `cp` does with one file."""
    await tree.fs.getattr(node_id)
    fh = await tree.fs.open(node_id, 0)
    data = await tree.read_all(fh)
    await tree.close(fh)
    return data


@pytest.mark.parametrize("order", ["listing", "inode numbers"])
def test_a_copy_of_a_directory_takes_one_request_a_file(tmp_path: Path, order: str) -> None:
    async def test(tree: Tree) -> None:
        attrs = await listed(tree)
        names = IDS if order == "listing" else sorted(IDS, key=lambda file_id: stable_ino("docs", file_id))
        for name in names:
            assert await copied(tree, attrs[name].node_id) == content(IDS.index(name))
            assert (await tree.fs.getattr(attrs[name].node_id)).mtime_ns == IDS.index(name) * 10**9

    requests = run(test, stored(), tmp_path)
    assert requests["load"] >= COUNT - 8
    assert requests["load"] + requests["read"] <= COUNT
    assert requests["stat"] <= 8


def test_a_long_listing_takes_one_stat_a_file_and_no_content(tmp_path: Path) -> None:
    async def test(tree: Tree) -> None:
        for number, attr in enumerate((await listed(tree)).values()):
            assert (await tree.fs.getattr(attr.node_id)).mtime_ns == number * 10**9

    assert run(test, stored(), tmp_path) == {"stat": COUNT}


@pytest.mark.parametrize("timeout", [60.0, 0.0], ids=["believed for a minute", "always asked"])
def test_names_looked_up_in_order_take_one_stat_a_file(tmp_path: Path, timeout: float) -> None:
    async def test(tree: Tree) -> None:
        await listed(tree)
        for number, name in enumerate(IDS):
            assert (await tree.lookup(name)).mtime_ns == number * 10**9
        asked = tree.fs._ahead["docs"].total_stats
        assert asked >= COUNT - 5 if timeout else not asked

    assert run(test, stored(), tmp_path, timeout) == {"stat": COUNT}


def test_names_looked_up_without_any_order_take_one_stat_each(tmp_path: Path) -> None:
    async def test(tree: Tree) -> None:
        await listed(tree)
        for name in random.Random(3).sample(IDS, 20):
            assert (await tree.lookup(name)).mtime_ns == IDS.index(name) * 10**9

    assert run(test, stored(), tmp_path) == {"stat": 20}


def test_files_looked_up_and_read_in_order_take_one_request_each(tmp_path: Path) -> None:
    """The kernel looks a name up again once its entry is too old, and may ask for attributes besides."""

    async def test(tree: Tree) -> None:
        attrs = await listed(tree)
        for number, name in enumerate(IDS):
            await tree.lookup(name)
            assert await copied(tree, attrs[name].node_id) == content(number)

    requests = run(test, stored(), tmp_path)
    assert requests["load"] + requests["read"] <= COUNT
    assert requests["stat"] <= 8


def test_a_file_that_was_asked_for_is_not_asked_for_by_the_next_mount(tmp_path: Path) -> None:
    storage = stored()

    async def look(tree: Tree) -> None:
        for name, attr in (await listed(tree)).items():
            if IDS.index(FileId(name)) % 20:
                await tree.lookup(name)
            else:
                await tree.fs.getattr(attr.node_id)

    async def again(tree: Tree) -> None:
        storage.requests.clear()
        assert [attr.mtime_ns for attr in (await listed(tree)).values()] == [n * 10**9 for n in range(COUNT)]
        await look(tree)

    assert run(look, storage, tmp_path) == {"stat": COUNT}
    assert not run(again, storage, tmp_path)


def test_files_read_without_any_order_take_one_request_each(tmp_path: Path) -> None:
    async def test(tree: Tree) -> None:
        attrs = await listed(tree)
        names = random.Random(3).sample(IDS, 12)
        for name in names:
            fh = await tree.fs.open(attrs[name].node_id, 0)
            assert await tree.read_all(fh) == content(IDS.index(name))
            await tree.close(fh)

    requests = run(test, stored(), tmp_path)
    assert requests == {"load": requests["load"]}
    assert 12 <= requests["load"] <= 15


def test_what_was_fetched_ahead_is_not_shown_once_another_version_is_known(tmp_path: Path) -> None:
    storage = stored()

    async def test(tree: Tree) -> None:
        attrs = await listed(tree)
        for name in IDS[:5]:
            await copied(tree, attrs[name].node_id)
        with trio.fail_after(10):
            while tree.volume.directory._files[IDS[8]].stat is None:  # fetched, and its answer is known
                await trio.lowlevel.checkpoint()
        put(storage, IDS[8], b"new", 1)
        # Without attr_timeout nothing is believed that was not asked for now.
        assert await tree.read_file(IDS[8]) == b"new"
        assert (await tree.lookup(IDS[8])).mtime_ns == 10**9

    run(test, storage, tmp_path, timeout=0.0)


def test_own_changes_win_over_what_is_being_fetched_ahead(tmp_path: Path) -> None:
    async def test(tree: Tree) -> None:
        attrs = await listed(tree)
        for name in IDS[:4]:
            await copied(tree, attrs[name].node_id)
        for name in IDS[4:12]:  # some are here, some on their way
            await tree.write_file(name, b"mine " + name.encode())
        for name in IDS[4:12]:
            assert await tree.read_file(name) == b"mine " + name.encode()

    run(test, stored(), tmp_path)


def test_large_and_empty_files_are_no_obstacle(tmp_path: Path) -> None:
    storage = stored()
    large = bytes(3 << 20)
    put(storage, IDS[20], large, 20)
    put(storage, IDS[21], b"", 21)
    storage.requests.clear()

    async def test(tree: Tree) -> None:
        attrs = await listed(tree)
        for number, name in enumerate(IDS):
            expected = {20: large, 21: b""}.get(number, content(number))
            assert await copied(tree, attrs[name].node_id) == expected

    requests = run(test, storage, tmp_path)
    assert ("load", IDS[20]) not in storage.requests
    assert ("load", IDS[21]) not in storage.requests
    assert requests["load"] <= COUNT - 2
    assert requests["stat"] <= 10


def test_a_new_file_is_asked_for_once_under_each_of_its_ids(tmp_path: Path) -> None:
    storage = stored(0)

    async def test(tree: Tree) -> None:
        for _ in range(2):  # cp looks once for itself, and the kernel once more when it opens
            with pytest.raises(FileNotFoundError):
                await tree.lookup("new.txt")
        fh = await tree.create("new.txt")
        assert sorted(storage.requests) == sorted(("stat", i) for i in derive("new.txt", storage.id_form))
        await tree.fs.write(fh, 0, b"new")
        await tree.close(fh)
        assert await tree.read_file("new.txt") == b"new"

    run(test, storage, tmp_path)


def test_a_file_that_others_made_is_there_though_it_was_just_absent(tmp_path: Path) -> None:
    storage = stored(0)

    async def test(tree: Tree) -> None:
        with pytest.raises(FileNotFoundError):
            await tree.lookup(IDS[0])
        put(storage, IDS[0], b"by others", 1)
        if not timeout:
            assert await tree.read_file(IDS[0]) == b"by others"
        # A listing is newer than what was believed, even if the kernel forgets what it listed.
        assert await tree.list() == [IDS[0]]
        assert await tree.read_file(IDS[0]) == b"by others"

    for timeout in (0.0, 60.0):
        storage.remove(IDS[0])
        run(test, storage, tmp_path / str(timeout), timeout)


# --- a server that is far away: threads and time are virtual ----------------------------------------------------------

ROUND_TRIP = 0.02


def run_far(
    test: Callable[[Tree], Awaitable[None]],
    storage: PlainListing,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    timeout: float = 1.0,
) -> float:
    """Virtual seconds that the test takes where each request takes a round trip."""

    async def main() -> float:
        async with mounted(storage, directory, VolumeOptions(attr_timeout=timeout)) as tree:
            begun = trio.current_time()
            await test(tree)
            return trio.current_time() - begun

    return run_virtually(monkeypatch, main, seconds=ROUND_TRIP)


async def listed_long(tree: Tree, each: float = 0.0, taken: int = 170) -> dict[str, int]:
    """What `ls -l` shows of times, taking so many entries at once as the kernel does and asking for what it must.

    Args:
        each: seconds for which it is busy with each file.
    """
    times: dict[str, int] = {}
    fh = await tree.fs.opendir(tree.directory)
    while True:
        piece: list[tuple[str, Attr]] = []

        def take(name: bytes, attr: Attr, following: int, piece: list[tuple[str, Attr]] = piece) -> bool:
            if len(piece) < taken:
                piece.append((name.decode(), attr))
            return len(piece) < taken

        await tree.fs.readdir(fh, len(times), take)
        if not piece:
            break
        for name, attr in piece:
            known = attr if attr.attr_timeout else await tree.fs.getattr(attr.node_id)
            times[name] = known.mtime_ns
            await trio.sleep(each)
        for _, attr in piece:
            tree.fs.forget(attr.node_id, 1)
    await tree.fs.releasedir(fh)
    return times


def many(count: int) -> PlainListing:
    storage = PlainListing()
    for number in range(count):
        put(storage, FileId(f"00000000-0000-4000-8000-{number:012}"), b"x", number)
    return storage


def test_a_long_listing_of_a_server_far_away_waits_for_few_round_trips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = many(2000)

    async def test(tree: Tree) -> None:
        times = await listed_long(tree)
        assert list(times.values()) == [number * 10**9 for number in range(2000)]

    # 64 at once: 2,000 files are 32 round trips at least.
    assert run_far(test, storage, tmp_path, monkeypatch) < 60 * ROUND_TRIP
    assert len(storage.requests) <= 1.02 * 2000


@pytest.mark.parametrize("behind", [0.0, 0.1, 5.0], ids=["together", "one behind the other", "much later"])
def test_two_long_listings_at_once_ask_for_each_file_once_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behind: float
) -> None:
    storage = many(2000)

    async def one(tree: Tree, wait: float) -> None:
        await trio.sleep(wait)
        assert len(await listed_long(tree)) == 2000

    async def test(tree: Tree) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, tree, 0.0)
            nursery.start_soon(one, tree, behind)

    assert run_far(test, storage, tmp_path, monkeypatch) < 150 * ROUND_TRIP + behind
    assert len(storage.requests) <= 2 * 2000


def test_a_slow_walker_is_not_outrun_by_what_is_asked_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 30 files a second an answer 256 files ahead would be too old when its turn comes, and asked for again."""
    storage = many(1000)

    async def test(tree: Tree) -> None:
        assert len(await listed_long(tree, each=1 / 30)) == 1000

    seconds = run_far(test, storage, tmp_path, monkeypatch)
    assert seconds < 1.1 * 1000 / 30
    assert len(storage.requests) <= 1.6 * 1000


def test_looks_in_the_order_of_inode_numbers_wait_for_few_round_trips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = many(1000)

    async def test(tree: Tree) -> None:
        attrs = await listed(tree)
        for attr in sorted(attrs.values(), key=lambda attr: attr.node_id):
            await tree.fs.getattr(attr.node_id)

    assert run_far(test, storage, tmp_path, monkeypatch) < 45 * ROUND_TRIP
    assert len(storage.requests) <= 1.1 * 1000


def test_what_was_heard_ahead_of_a_listing_gives_way_to_own_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = many(400)
    changed, gone = (FileId(f"00000000-0000-4000-8000-{number:012}") for number in (180, 181))

    async def test(tree: Tree) -> None:
        fh = await tree.fs.opendir(tree.directory)
        piece: list[Attr] = []

        def take(name: bytes, attr: Attr, following: int) -> bool:
            piece.append(attr)
            return len(piece) < 170

        await tree.fs.readdir(fh, 0, take)
        for attr in piece:
            await tree.fs.getattr(attr.node_id)
        await trio.sleep(2 * ROUND_TRIP)
        knowledge = tree.volume.knowledge
        assert knowledge.find_heard(changed) is not None
        await tree.write_file(changed, b"mine")
        await tree.fs.unlink(tree.directory, gone.encode(), 0)
        assert knowledge.find_heard(changed) is None is knowledge.find_heard(gone)
        assert (await tree.lookup(changed)).size == 4
        with pytest.raises(FileNotFoundError):
            await tree.lookup(gone)
        await tree.fs.releasedir(fh)

    run_far(test, storage, tmp_path, monkeypatch, timeout=60)


def test_what_was_heard_is_bounded_and_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(tree: Tree) -> None:
        stat = storage_stat()
        knowledge = Knowledge(tree.volume.remote, attr_timeout=1.0)
        for number in range(5000):
            knowledge.hear(replace(stat, file_id=FileId(str(number))))
        assert knowledge.find_heard(FileId("0")) is None
        heard = knowledge.find_heard(FileId("4999"))
        assert heard is not None
        assert heard.stat.size == 1
        await trio.sleep(1.1)
        assert knowledge.find_heard(FileId("4999")) is None

    def storage_stat() -> FileStat:
        return storage.stat(FileId("00000000-0000-4000-8000-000000000000"))

    storage = many(1)
    run_far(test, storage, tmp_path, monkeypatch)


def test_the_order_of_a_listing_follows_what_is_listed_and_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    def entries(*names: str) -> list[FileEntry]:
        return [FileEntry(FileId(name), size=ord(name[0])) for name in names]

    listed = Listed()
    assert listed.put(entries("a", "c", "e"), None)
    assert listed.put(entries("g", "i"), FileId("e"))
    assert listed.ids == ["a", "c", "e", "g", "i"]
    assert (listed.find(FileId("g")), listed.find(FileId("h")), listed.size(FileId("g"))) == (3, None, ord("g"))
    listed.looks = (Walk(3),)
    assert listed.put(entries("a", "c", "e"), None)  # listed again: a walk goes on
    assert listed.looks
    assert not listed.put(entries("c", "d", "e"), None)
    assert not listed.looks
    assert listed.ids == ["c", "d", "e", "g", "i"]
    assert not listed.put((), FileId("g"))
    assert listed.ids == ["c", "d", "e", "g"]
    assert [listed.size(file_id) for file_id in listed.ids] == list(map(ord, "cdeg"))
    monkeypatch.setattr(ahead, "_LONGEST", 6)
    listed.put(entries("k", "l", "m"), FileId("g"))
    assert listed.ids == ["k", "l", "m"]
    listed.put(entries("a", "b", "c", "d"), None)
    assert listed.ids == ["a", "b", "c"]
    assert [listed.size(file_id) for file_id in listed.ids] == list(map(ord, "abc"))
