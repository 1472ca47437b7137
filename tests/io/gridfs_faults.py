"""Faults between a client and mongod, made on purpose: killed clients, failing commands; and commands counted."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pymongo import MongoClient, monitoring

from depotfs.io import gridfs_connection
from depotfs.io.gridfs import GridFSStorage

_KILLED = 77


class _Commands(monitoring.CommandListener):
    """Notes each command as "name collection", and calls `on` with the number of those before it."""

    def __init__(self, on: Callable[[int], None] = lambda number: None) -> None:
        self.names: list[str] = []
        self._on = on

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        target = str(event.command.get("collection", event.command.get(event.command_name)))
        self._on(len(self.names))
        self.names.append(f"{event.command_name} {target.rpartition('.')[2]}")

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Of no interest: whoever dies now leaves what one leaves who dies before the next command."""

    failed = succeeded  # type: ignore[assignment]


def _listened(monkeypatch: pytest.MonkeyPatch, listener: _Commands) -> None:
    def client(*args: Any, **options: Any) -> MongoClient[dict[str, Any]]:
        return MongoClient(*args, event_listeners=[listener], **options)

    monkeypatch.setattr(gridfs_connection, "MongoClient", client)


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, uri: str) -> Iterator[tuple[GridFSStorage, list[str]]]:
    """A storage, and the commands that it sends, as "find files"; its indexes exist and are not asked for again."""
    listener = _Commands()
    with monkeypatch.context() as patched:
        _listened(patched, listener)
        storage = GridFSStorage(uri)
        storage.delete(storage.create(b"for the indexes"))
        listener.names.clear()
        yield storage, listener.names
        storage.close()


def killed_at(uri: str, step: int, act: Callable[[GridFSStorage], object]) -> bool:
    """A process that does `act` died when `step` of its commands were done; False: it is done with fewer."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        _act_and_die(uri, step, act)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, _KILLED), "the child failed by itself"
    return code == _KILLED


def _act_and_die(uri: str, step: int, act: Callable[[GridFSStorage], object]) -> None:
    def on(number: int) -> None:
        if number == step:
            os._exit(_KILLED)

    try:
        _listened(pytest.MonkeyPatch(), _Commands(on))
        storage = GridFSStorage(uri)
        storage._connection.collections()._indexed = True
        act(storage)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


@contextmanager
def failing(uri: str, times: int | str, *commands: str, **how: Any) -> Iterator[None]:
    """The storage's own client finds these commands failing: `errorCode=…`, `closeConnection=True`.

    Args:
        times: how often, or "alwaysOn".
    """
    client: MongoClient[dict[str, Any]] = MongoClient(uri)
    data = {"failCommands": list(commands), "appName": "depotfs", **how}
    mode = times if isinstance(times, str) else {"times": times}
    with client:
        client.admin.command({"configureFailPoint": "failCommand", "mode": mode, "data": data})
        try:
            yield
        finally:
            client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})
