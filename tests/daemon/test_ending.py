"""How a mount comes to its end."""

from collections.abc import Awaitable, Callable

import trio
import trio.testing

from depotfs.daemon.ending import Ending
from depotfs.daemon.exits import CommandFailed, Exit
from depotfs.daemon.mountpoint import InUse


class Tree:
    """A mount that has something to store until it `may_store`, and refuses to be unmounted by `refusal`."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.may_store = trio.Event()
        self.stopped = trio.Event()
        self.refusal: Exception | None = None
        self.ending = Ending(self.drain, self.unmount, self.stop)

    async def drain(self) -> None:
        self.events.append("draining")
        await self.may_store.wait()

    def stop(self) -> None:
        self.events.append("stopped")
        self.stopped.set()

    def unmount(self) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.events.append("unmounted")


def live(life: Callable[[Tree, trio.Nursery], Awaitable[None]]) -> list[str]:
    """What happened to a tree."""

    async def main() -> list[str]:
        tree = Tree()
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                await life(tree, nursery)
        return tree.events

    return trio.run(main)


def test_it_is_unmounted_once_everything_is_stored_and_all_who_ask_hear_the_same() -> None:
    async def life(tree: Tree, nursery: trio.Nursery) -> None:
        heard = []

        async def ask() -> None:
            tree.ending.begin(nursery)
            heard.append(await tree.ending.wait())

        for _ in range(2):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        assert tree.events == ["draining"]
        tree.may_store.set()
        await tree.stopped.wait()
        assert heard == []
        tree.ending.conclude({"code": 0})
        await trio.testing.wait_all_tasks_blocked()
        assert heard == [{"code": 0}] * 2

    assert live(life) == ["draining", "unmounted", "stopped"]


def test_a_tree_in_use_goes_on_and_can_be_asked_again() -> None:
    async def life(tree: Tree, nursery: trio.Nursery) -> None:
        tree.may_store.set()
        forbidden = CommandFailed(Exit.NO_PERMISSION, "/m is not yours")
        for refusal, code in ((InUse("/m is in use"), 21), (forbidden, 15), (OSError(24, "too many open files"), 1)):
            tree.refusal = refusal
            tree.ending.begin(nursery)
            assert await tree.ending.wait() == {"code": code, "reason": str(refusal)}
        tree.refusal = None
        tree.ending.begin(nursery)
        await tree.stopped.wait()

    assert live(life) == [*["draining"] * 4, "unmounted", "stopped"]


def test_a_signal_ends_a_tree_in_use_too_also_if_it_was_asked_to_end_before() -> None:
    async def life(tree: Tree, nursery: trio.Nursery) -> None:
        tree.refusal = InUse("/m is in use")
        tree.ending.begin(nursery)
        await trio.testing.wait_all_tasks_blocked()
        tree.ending.begin(nursery, forced=True)
        tree.may_store.set()

    assert live(life) == ["draining", "stopped"]
