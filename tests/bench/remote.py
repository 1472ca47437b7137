"""The mount over MinIO, near and 20 ms away, and over MongoDB, beside what their own clients reach directly."""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from pymongo import MongoClient

from tests.bench import measure, work
from tests.bench.delay import delayed
from tests.bench.measure import Contestant, Row
from tests.bench.scale import Scale
from tests.mount.harness import Mount
from tests.posix.place import derived_object_id, derived_uuid
from tests.servers import mongod, s3

GIB = 1 << 30
PART = 8 << 20
"""Bytes of one direct request, and CONNECTIONS of them at once: what the target is measured against."""
CONNECTIONS = 8
_CHUNKS = 32
"""GridFS chunks of 255 KiB that the direct loop asks for at once: just below 8 MiB, its fastest."""


class Bucket:
    """One bucket of a MinIO that is so many milliseconds away."""

    def __init__(self, directory: Path, scale: Scale, server: s3.S3Server, port: int, distance: str) -> None:
        self.directory = directory
        self.scale = scale
        self.distance = distance
        self.name = server.new_bucket()
        self._endpoint = f"http://127.0.0.1:{port}"
        self._keys = {"aws_access_key_id": server.access_key, "aws_secret_access_key": server.secret_key}
        self._numbers = itertools.count()
        config = Config(max_pool_connections=CONNECTIONS + 4, s3={"addressing_style": "path"})
        make_client: Any = boto3.client
        self.client = make_client(
            "s3", endpoint_url=self._endpoint, region_name="us-east-1", config=config, **self._keys
        )

    @contextlib.contextmanager
    def depotfs(self) -> Iterator[Mount]:
        """Freshly mounted."""
        options = {
            "backend": "depotfs.io.boto3.S3Storage",
            "access_key_id": self._keys["aws_access_key_id"],
            "secret_access_key": self._keys["aws_secret_access_key"],
            "bucket": self.name,
            "endpoint_url": self._endpoint,
        }
        directory = self.directory / f"s3-{self.distance}-{next(self._numbers)}"
        with Mount(directory, {"files": options}) as mount:
            yield mount

    @contextlib.contextmanager
    def rclone(self) -> Iterator[Path]:
        """The bucket through rclone mount, with its cache of whole files, freshly mounted."""
        directory = self.directory / f"rclone-{self.distance}-{next(self._numbers)}"
        path = directory / "mnt"
        path.mkdir(parents=True)
        config = directory / "rclone.conf"
        config.write_text(
            f"[s3]\ntype = s3\nprovider = Minio\nendpoint = {self._endpoint}\n"
            f"access_key_id = {self._keys['aws_access_key_id']}\n"
            f"secret_access_key = {self._keys['aws_secret_access_key']}\n"
        )
        # Of its own environment it could not stand a bundle of certificates, which plain HTTP does not need.
        environment = {name: value for name, value in os.environ.items() if name != "AWS_CA_BUNDLE"}
        cache = directory / "cache"
        command = ["rclone", "mount", "--daemon", "--vfs-cache-mode", "full", "--cache-dir", str(cache)]
        command += ["--config", str(config), f"s3:{self.name}", str(path)]
        subprocess.run(command, check=True, env=environment)
        try:
            yield path
        finally:
            subprocess.run(["umount", path], check=True)

    def read_directly(self, key: str) -> float:
        """Seconds of the whole object by ranged requests, several at once."""
        size = self.client.head_object(Bucket=self.name, Key=key)["ContentLength"]

        def part(start: int) -> int:
            answer = self.client.get_object(Bucket=self.name, Key=key, Range=f"bytes={start}-{start + PART - 1}")
            return len(answer["Body"].read())

        def read() -> None:
            with ThreadPoolExecutor(CONNECTIONS) as pool:
                assert sum(pool.map(part, range(0, size, PART))) == size

        return measure.timed(read)

    def read_randomly(self, key: str, count: int) -> float:
        """Median seconds of one ranged request of 4 KiB."""
        size = self.client.head_object(Bucket=self.name, Key=key)["ContentLength"]
        chance = random.Random()

        def read() -> None:
            start = chance.randrange(size // 4096) * 4096
            self.client.get_object(Bucket=self.name, Key=key, Range=f"bytes={start}-{start + 4095}")["Body"].read()

        return sorted(measure.timed(read) for _ in range(count))[count // 2]

    def upload_directly(self, path: Path) -> float:
        """Seconds of boto3's own upload of a file."""
        return measure.timed(lambda: self.client.upload_file(str(path), self.name, "direct"))


def bench_s3(directory: Path, scale: Scale) -> Iterator[Row]:
    """Near, and 20 ms away."""
    for milliseconds in (0, 20):
        with (
            contextlib.contextmanager(inspect.unwrap(s3.minio))() as server,
            delayed(server.port, milliseconds) as port,
        ):
            yield from _s3(Bucket(directory, scale, server, port, f"{milliseconds} ms"))


def _s3(bucket: Bucket) -> Iterator[Row]:
    large = bucket.directory / f"large-{bucket.distance}"
    work.make_large_file(large, bucket.scale.large)
    key = derived_uuid("large")
    bucket.client.upload_file(str(large), bucket.name, key)
    peaks: list[int] = []
    size = f"{bucket.scale.large / GIB:g} GiB"

    def read() -> float:
        with bucket.depotfs() as mount:
            seconds = work.read_in_order(mount.path / "files" / "large")
            peaks.append(mount.peak_memory())
            return seconds

    contestants: dict[str, Contestant] = {"depotfs": read, "direct": functools.partial(bucket.read_directly, key)}
    yield _compare(bucket, f"read {size}", contestants, "direct", 0.6)

    def read_randomly() -> float:
        with bucket.depotfs() as mount:
            return work.random_reads(mount.path / "files" / "large", 60)

    contestants = {"depotfs": read_randomly, "direct": functools.partial(bucket.read_randomly, key, 60)}
    yield _compare(bucket, "random 4 KiB", contestants, "direct", 1.3, slower=True)

    def copy_in() -> float:
        with bucket.depotfs() as mount:
            target = mount.path / "files" / "copied"
            seconds = measure.timed(lambda: subprocess.run(["cp", large, target], check=True))
            peaks.append(mount.peak_memory())
            return seconds

    contestants = {"depotfs": copy_in, "direct": functools.partial(bucket.upload_directly, large)}
    yield _compare(bucket, f"cp of {size} in", contestants, "direct", 0.8)
    yield measure.limit(f"s3 {bucket.distance}: memory meanwhile", max(peaks) / work.MIB, "MiB", 300)
    large.unlink()
    for name in (key, "direct", derived_uuid("copied")):
        bucket.client.delete_object(Bucket=bucket.name, Key=name)
    yield from _s3_small(bucket)


def _s3_small(bucket: Bucket) -> Iterator[Row]:
    count = bucket.scale.remote_files
    plain = bucket.directory / f"small-{bucket.distance}"
    work.make_small_files(plain, count)

    def copy_in() -> float:
        with bucket.depotfs() as mount:
            return work.copy_tree(plain, mount.path / "files")

    seconds = copy_in()
    yield Row(f"s3 {bucket.distance}: cp -r of {count} × 20 KiB in", {"depotfs": seconds}, "–", "no target", None)

    def by_depotfs() -> float:
        with bucket.depotfs() as mount:
            return work.copy_out(mount.path / "files", bucket.directory)

    def by_rclone() -> float:
        with bucket.rclone() as path:
            return work.copy_out(path, bucket.directory)

    contestants: dict[str, Contestant] = {"depotfs": by_depotfs}
    if shutil.which("rclone"):
        contestants["rclone"] = by_rclone
    yield _compare(bucket, f"cp -r of {count} × 20 KiB out", contestants, "rclone", 1)
    shutil.rmtree(plain)


def _compare(
    bucket: Bucket,
    what: str,
    contestants: dict[str, Contestant],
    against: str,
    target: float,
    *,
    slower: bool = False,
) -> Row:
    return measure.compare(
        f"s3 {bucket.distance}: {what}",
        contestants,
        rounds=bucket.scale.rounds,
        against=against,
        target=target,
        slower=slower,
    )


def bench_gridfs(directory: Path, scale: Scale) -> Iterator[Row]:
    """Reading a file in order."""
    with contextlib.contextmanager(inspect.unwrap(mongod.mongod))() as server:
        uri = server.uri("bench")
        storages = {"files": {"backend": "depotfs.io.gridfs.GridFSStorage", "mongouri": uri}}
        source = directory / "gridfs-large"
        work.make_large_file(source, scale.large)
        numbers = itertools.count()
        with Mount(directory / "gridfs-in", storages) as mount:
            copying = measure.timed(lambda: subprocess.run(["cp", source, mount.path / "files" / "large"], check=True))
        yield Row(f"gridfs: cp of {scale.large / GIB:g} GiB in", {"depotfs": copying}, "–", "no target", None)
        peaks: list[int] = []

        def read() -> float:
            with Mount(directory / f"gridfs-{next(numbers)}", storages) as mount:
                seconds = work.read_in_order(mount.path / "files" / "large")
                peaks.append(mount.peak_memory())
                return seconds

        contestants: dict[str, Contestant] = {
            "depotfs": read,
            "direct": functools.partial(_find_loop, uri, scale.large),
        }
        what = f"gridfs: read {scale.large / GIB:g} GiB"
        yield measure.compare(what, contestants, rounds=scale.rounds, against="direct", target=0.8)
        yield measure.limit("gridfs: memory meanwhile", max(peaks) / work.MIB, "MiB", 300)
        source.unlink()


def _find_loop(uri: str, size: int) -> float:
    """Seconds of reading the file's chunks by one find() for each run of them."""
    client: MongoClient[dict[str, Any]] = MongoClient(uri)
    with client:
        database = client.get_default_database()
        (document,) = database["filedepot.files"].find({"filename": "large"})
        assert str(document["_id"]) == derived_object_id("large")
        start = time.perf_counter()
        total = 0
        for first in range(0, -(-size // document["chunkSize"]), _CHUNKS):
            run = {"files_id": document["_id"], "n": {"$gte": first, "$lt": first + _CHUNKS}}
            for chunk in database["filedepot.chunks"].find(run, {"data": 1, "_id": 0}).sort("n"):
                total += len(chunk["data"])
        assert total == size, f"{total} bytes of {size} under this id: is the content stored under another?"
        return time.perf_counter() - start
