"""The old spelling of S3: its own options, and that the rest is the same storage."""

from __future__ import annotations

import pytest

from depotfs.errors import ConfigurationError
from depotfs.io import awss3, boto3
from depotfs.types import FileId
from tests.io.contract_sources import METADATA, content_of, put
from tests.servers.s3 import S3Server


@pytest.mark.xdist_group("moto")
def test_host_and_encryption(moto_s3: S3Server) -> None:
    bucket = moto_s3.new_bucket()
    for encrypt_key in (False, True):
        storage = awss3.S3Storage(
            moto_s3.access_key, moto_s3.secret_key, bucket, moto_s3.endpoint, "private", encrypt_key, "p/"
        )
        stat = put(storage, b"content")
        head = moto_s3.client().head_object(Bucket=bucket, Key=f"p/{stat.file_id}")
        assert head.get("ServerSideEncryption") == ("AES256" if encrypt_key else None)
        assert content_of(storage, stat) == b"content"
        copy = storage.copy(stat, FileId("f" * 24), METADATA)
        head = moto_s3.client().head_object(Bucket=bucket, Key=f"p/{copy.file_id}")
        assert head.get("ServerSideEncryption") == ("AES256" if encrypt_key else None)


@pytest.mark.parametrize(
    ("host", "place", "region"),
    [
        (None, "AWS", None),
        ("s3.amazonaws.com", "AWS", None),
        ("s3-eu-west-1.amazonaws.com", "https://s3-eu-west-1.amazonaws.com", "eu-west-1"),
        ("s3.example.com:8443", "https://s3.example.com:8443", None),
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000", None),
    ],
)
def test_hosts(host: str | None, place: str, region: str | None) -> None:
    storage = awss3.S3Storage("KEY", "secret", host=host)
    assert isinstance(storage, boto3.S3Storage)
    assert storage.identity() == f"s3 {place} filedepot-key/"
    assert storage._settings.region_name == region


def test_other_options_pass() -> None:
    with pytest.raises(ConfigurationError):
        awss3.S3Storage("KEY", "secret", policy="everybody")
    assert awss3.S3Storage("KEY", "secret", presign=60, region="eu-west-1")._settings.region_name == "eu-west-1"
    with pytest.raises(TypeError):
        awss3.S3Storage("KEY", "secret", no_such_option=1)
