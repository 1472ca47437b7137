"""Files fetched before they are asked for: how many requests it takes, and that nothing old is ever shown."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from depotfs.io.content import BytesContent
from depotfs.types import FileId, FileMetadata
from depotfs.vfs.attr import Attr
from depotfs.vfs.names import derive
from depotfs.vfs.nodes import stable_ino
from depotfs.vfs.options import VolumeOptions
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
    assert requests["load"] >= COUNT - 5
    assert requests["load"] + requests["read"] <= COUNT
    assert requests["stat"] <= 5


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
        ahead = tree.fs._ahead["docs"].total_stats
        assert ahead >= COUNT - 5 if timeout else not ahead

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
    assert requests["stat"] <= 5


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
    assert requests["stat"] <= 7


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
