"""A fresh storage of each kind: as a configuration says it, and as the library opens it beside the mount."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from depotfs.io.interfaces import FileStorage
from depotfs.manager import class_at
from tests.posix.place import derived_object_id, derived_uuid

LOCAL = "depotfs.io.local.LocalFileStorage"


@dataclass(frozen=True, slots=True)
class StorageUnderTest:
    """One storage that nobody else uses.

    Attributes:
        options: constructor arguments.
    """

    kind: str
    backend: str
    options: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """What stands under its name in depotfs.yaml."""
        return {"backend": self.backend, **self.options}

    def open(self) -> FileStorage:
        """The same storage through the library."""
        storage: FileStorage = class_at(self.backend)(**self.options)
        return storage

    @property
    def remote(self) -> bool:
        return self.kind not in ("local", "memory")

    @property
    def derive(self) -> Callable[[str], str]:
        """The id that a plain name has there."""
        return derived_object_id if self.kind == "gridfs" else derived_uuid


def make_storage(kind: str, directory: Path, request: pytest.FixtureRequest) -> StorageUnderTest:
    """A new, empty storage of that kind; its server is started if it is not running yet."""
    name = f"t{uuid.uuid4().hex[:12]}"
    match kind:
        case "local":
            return StorageUnderTest(kind, LOCAL, {"storage_path": str(directory / name)})
        case "memory":
            return StorageUnderTest(kind, "depotfs.io.memory.MemoryFileStorage", {})
        case "gridfs":
            mongod = request.getfixturevalue("mongod")
            return StorageUnderTest(kind, "depotfs.io.gridfs.GridFSStorage", {"mongouri": mongod.uri(name)})
        case "s3":
            minio = request.getfixturevalue("minio")
            options = {
                "access_key_id": minio.access_key,
                "secret_access_key": minio.secret_key,
                "bucket": minio.new_bucket(),
                "endpoint_url": minio.endpoint,
            }
            return StorageUnderTest(kind, "depotfs.io.boto3.S3Storage", options)
        case "gcs":
            fake = request.getfixturevalue("gcs_fake")
            return StorageUnderTest(kind, "depotfs.io.gcs.GCSStorage", fake.storage_options(fake.new_bucket()))
    raise ValueError(kind)


def on_kinds(*kinds: str) -> pytest.MarkDecorator:
    """The test runs once for each kind, through the fixture `kind`; those of one kind in one worker."""
    group = pytest.mark.xdist_group
    return pytest.mark.parametrize(
        "kind", [pytest.param(kind, marks=group(f"mount-{kind}")) for kind in kinds], indirect=True, scope="session"
    )


KINDS = ("local", "memory", "gridfs", "s3", "gcs")
PERSISTENT = ("local", "gridfs", "s3", "gcs")
"""Those that survive the daemon and can be looked at from outside of it."""
REMOTE = ("gridfs", "s3", "gcs")
