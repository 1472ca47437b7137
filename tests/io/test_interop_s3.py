"""filedepot and this library on the same bucket, both ways."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from depotfs.io import awss3
from depotfs.io import boto3 as ours
from depotfs.types import FileId
from tests.io.contract_files import NAMES
from tests.io.contract_sources import METADATA, noise, put
from tests.servers.s3 import S3Server

pytestmark = pytest.mark.xdist_group("moto")


def _filedepot(server: S3Server, bucket: str) -> Any:
    from depot.io.boto3 import S3Storage

    return S3Storage(
        server.access_key, server.secret_key, bucket, policy="private", endpoint_url=server.endpoint, prefix="p/"
    )


def _boto3(server: S3Server, bucket: str) -> ours.S3Storage:
    return ours.S3Storage(server.access_key, server.secret_key, bucket, endpoint_url=server.endpoint, prefix="p/")


def _awss3(server: S3Server, bucket: str) -> ours.S3Storage:
    return awss3.S3Storage(server.access_key, server.secret_key, bucket, host=server.endpoint, prefix="p/")


@pytest.fixture(params=[_boto3, _awss3], ids=["boto3", "awss3"])
def make(request: pytest.FixtureRequest) -> Callable[[S3Server, str], ours.S3Storage]:
    return request.param  # type: ignore[no-any-return]


def test_both_ways(moto_s3: S3Server, make: Callable[[S3Server, str], ours.S3Storage]) -> None:
    bucket = moto_s3.new_bucket()
    theirs, storage = _filedepot(moto_s3, bucket), make(moto_s3, bucket)
    for name in NAMES:
        data = name.encode()
        for one, other in ((theirs, storage), (storage, theirs)):
            file_id = one.create(data, name, "text/x-own")
            file = other.get(file_id)
            assert (file.filename, file.content_type, file.content_length) == (name, "text/x-own", len(data))
            assert file.last_modified == one.get(file_id).last_modified
            assert file.read() == data
    assert sorted(theirs.list()) == sorted(storage.list())
    assert len(storage.list()) == 2 * len(NAMES)


def test_replaced_and_deleted_by_the_other(moto_s3: S3Server) -> None:
    bucket = moto_s3.new_bucket()
    theirs, storage = _filedepot(moto_s3, bucket), _boto3(moto_s3, bucket)
    file_id = theirs.create(b"old", "a.txt", "text/plain")
    storage.replace(file_id, b"ours", "b.txt")
    assert (theirs.get(file_id).read(), theirs.get(file_id).filename) == (b"ours", "b.txt")
    theirs.replace(file_id, b"theirs")
    assert (storage.get(file_id).read(), storage.get(file_id).filename) == (b"theirs", "b.txt")
    storage.update(storage.stat(FileId(file_id)), filename="c.txt", modified=60)
    assert theirs.get(file_id).filename == "c.txt"
    assert theirs.get(file_id).last_modified == datetime(1970, 1, 1, 0, 1)
    theirs.delete(file_id)
    assert not storage.exists(file_id)
    storage.create(b"x")
    storage.delete(storage.list()[0])
    assert theirs.list() == []


def test_large_file_of_ours_is_read_by_theirs(moto_s3: S3Server) -> None:
    bucket = moto_s3.new_bucket()
    theirs, storage = _filedepot(moto_s3, bucket), _boto3(moto_s3, bucket)
    data = noise(17_000_000)
    stat = put(storage, data, FileId(str(uuid.uuid1())))
    file = theirs.get(stat.file_id)
    assert (file.filename, file.content_type, file.read()) == (METADATA.filename, METADATA.content_type, data)


def test_objects_are_stored_alike(moto_s3: S3Server) -> None:
    bucket = moto_s3.new_bucket()
    client = moto_s3.client()
    heads = []
    for storage in (_filedepot(moto_s3, bucket), _boto3(moto_s3, bucket)):
        file_id = storage.create(b"x", 'имя "x" %41;.txt', "text/plain")
        heads.append(client.head_object(Bucket=bucket, Key=f"p/{file_id}"))
    theirs, mine = (head["Metadata"] for head in heads)
    assert mine["x-depot-filename"] == theirs["x-depot-filename"]
    assert len(mine["x-depot-modified"]) == len(theirs["x-depot-modified"])
    assert heads[0]["ContentType"] == heads[1]["ContentType"]
    assert set(mine) - set(theirs) == {"x-depot-upload"}
