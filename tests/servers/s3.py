"""S3 servers: MinIO (strict, fast), moto's (newest conditions) and OpenStack Swift (strict, weakly consistent)."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.servers.process import ServerProcess, accepts, free_port, missing

_ROOT = Path(__file__).parents[2]
_CACHE = _ROOT / ".cache"


class S3Server:
    """A running S3 server on loopback.

    Attributes:
        endpoint: its URL; host, port: the same in parts; access_key, secret_key: of a user who may do everything.
        process: the process that answers requests.
    """

    host = "127.0.0.1"

    def __init__(self, process: ServerProcess, port: int, access_key: str, secret_key: str) -> None:
        self.process = process
        self.port = port
        self.endpoint = f"http://{self.host}:{port}"
        self.access_key = access_key
        self.secret_key = secret_key

    def client(self, **config: Any) -> Any:
        """A boto3 client of its own, path style."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, **config),
        )

    def new_bucket(self) -> str:
        """The name of an empty bucket that nobody else uses."""
        name = f"bucket-{uuid.uuid4().hex[:16]}"
        self.client().create_bucket(Bucket=name)
        return name


def _program(name: str) -> Path:
    """The program that `make test` keeps in the cache folder, else the one on PATH."""
    folders = [os.environ.get("DEPOTFS_TEST_BIN", ""), str(_CACHE / "bin"), os.environ.get("PATH", "")]
    found = shutil.which(name, path=os.pathsep.join(folder for folder in folders if folder))
    return Path(found) if found else missing(name)


def _answers(url: str) -> Callable[[], bool]:
    """Whether an HTTP server there answers, whatever it says."""

    def ready() -> bool:
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    return ready


@pytest.fixture(scope="session")
def minio() -> Iterator[S3Server]:
    program = _program("minio")
    process, port = ServerProcess("minio"), free_port()
    server = S3Server(process, port, "minio-user", "minio-secret-key")
    data = process.directory / "data"
    data.mkdir()
    try:
        process.start(
            [program, "server", "--quiet", "--address", f"127.0.0.1:{port}", data],
            _answers(f"{server.endpoint}/minio/health/ready"),
            environment={
                "MINIO_ROOT_USER": server.access_key,
                "MINIO_ROOT_PASSWORD": server.secret_key,
                "MINIO_BROWSER": "off",
            },
        )
        yield server
    finally:
        process.stop()


@pytest.fixture(scope="session")
def moto_s3() -> Iterator[S3Server]:
    process, port = ServerProcess("moto"), free_port()
    server = S3Server(process, port, "moto-user", "moto-secret")
    code = "from moto.server import main; main()"
    try:
        process.start(
            [sys.executable, "-c", code, "-H", "127.0.0.1", "-p", str(port)], _answers(f"{server.endpoint}/moto-api/")
        )
        yield server
    finally:
        process.stop()


def _swift_programs() -> Path:
    """The folder with Swift's programs: this Python's own, or the virtual environment that `make test` keeps."""
    for folder in (Path(sysconfig.get_path("scripts")), _CACHE / "swift-venv" / "bin"):
        if (folder / "swift-proxy-server").exists():
            return folder
    return missing("OpenStack Swift")


_RINGS = ("account", "container", "object")
_PIPELINE = (
    "catch_errors healthcheck proxy-logging cache listing_formats bulk s3api tempauth copy slo dlo versioned_writes"
    " symlink proxy-server"
)
_FILTERS: dict[str, dict[str, str]] = {
    "catch_errors": {},
    "healthcheck": {},
    "proxy-logging": {"use": "egg:swift#proxy_logging"},
    "cache": {"use": "egg:swift#memcache", "memcache_servers": ""},
    "listing_formats": {},
    "bulk": {},
    "s3api": {"s3_acl": "true", "check_bucket_owner": "false", "min_segment_size": "5242880"},
    "tempauth": {"user_test_tester": "testing .admin"},
    "copy": {},
    "slo": {},
    "dlo": {},
    "versioned_writes": {"allow_versioned_writes": "true", "allow_object_versioning": "true"},
    "symlink": {},
}


def _section(name: str, values: dict[str, str]) -> str:
    return f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in values.items()) + "\n"


def _write_swift_configuration(root: Path, ports: dict[str, int]) -> None:
    common = {"bind_ip": "127.0.0.1", "workers": "0", "swift_dir": str(root), "user": getpass.getuser()}
    common["log_level"] = "WARNING"
    (root / "swift.conf").write_text(
        _section("swift-hash", {"swift_hash_path_suffix": "depotfs", "swift_hash_path_prefix": "depotfs"})
        + _section("storage-policy:0", {"name": "gold", "default": "yes"})
    )
    devices = {"mount_check": "false", "devices": str(root / "devices"), "fallocate_reserve": "0"}
    for name in _RINGS:
        (root / f"{name}.conf").write_text(
            _section("DEFAULT", common | devices | {"bind_port": str(ports[name]), "disable_fallocate": "true"})
            + _section("pipeline:main", {"pipeline": f"{name}-server"})
            + _section(f"app:{name}-server", {"use": f"egg:swift#{name}"})
        )
    (root / "proxy.conf").write_text(
        _section("DEFAULT", common | {"bind_port": str(ports["proxy"])})
        + _section("pipeline:main", {"pipeline": _PIPELINE})
        + "".join(_section(f"filter:{name}", {"use": f"egg:swift#{name}"} | more) for name, more in _FILTERS.items())
        + _section("app:proxy-server", {"use": "egg:swift#proxy", "account_autocreate": "true"})
    )


def _build_rings(programs: Path, root: Path, ports: dict[str, int]) -> None:
    """One device, one replica: written by Swift's own library in one process instead of nine."""
    code = (
        "import sys; from swift.common.ring import RingBuilder\n"
        "root, rest = sys.argv[1], sys.argv[2:]\n"
        "for name, port in zip(rest[::2], rest[1::2]):\n"
        "    b = RingBuilder(4, 1, 1)\n"
        "    b.add_dev(dict(region=1, zone=1, ip='127.0.0.1', port=int(port), device='d1', weight=1.0))\n"
        "    b.rebalance(); b.get_ring().save(f'{root}/{name}.ring.gz')\n"
    )
    arguments = [part for name in _RINGS for part in (name, str(ports[name]))]
    subprocess.run([programs / "python", "-c", code, root, *arguments], check=True, capture_output=True)


@pytest.fixture(scope="session")
def swift_s3() -> Iterator[S3Server]:
    programs = _swift_programs()
    ports = {name: free_port() for name in (*_RINGS, "proxy")}
    processes = {name: ServerProcess(f"swift-{name}") for name in (*_RINGS, "proxy")}
    root = processes["proxy"].directory
    (root / "devices" / "d1").mkdir(parents=True)
    server = S3Server(processes["proxy"], ports["proxy"], "test:tester", "testing")
    try:
        _write_swift_configuration(root, ports)
        _build_rings(programs, root, ports)
        for name in _RINGS:
            command = [programs / f"swift-{name}-server", root / f"{name}.conf"]
            processes[name].start(command, partial(accepts, ports[name]))
        processes["proxy"].start(
            [programs / "swift-proxy-server", root / "proxy.conf"], _answers(f"{server.endpoint}/healthcheck")
        )
        yield server
    finally:
        for process in reversed(processes.values()):
            process.stop()
