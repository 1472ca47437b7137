"""The old spelling of S3: filedepot's `depot.io.awss3.S3Storage` with its options, on the same storage."""

from __future__ import annotations

import re
from typing import Any, Final

from depotfs.io import boto3

_AWS: Final = "s3.amazonaws.com"
_REGIONAL: Final = re.compile(r"s3[.-]([a-z]{2}(?:-[a-z]+)+-\d)\.amazonaws\.com")


class S3Storage(boto3.S3Storage):
    """A bucket of AWS S3, or of the server `host`.

    Args:
        host: a host name, with a port where needed, reached by HTTPS; or a URL.
        encrypt_key: objects are encrypted by the server (AES256).
        access_key_id, secret_access_key, bucket, policy, prefix: as in `depotfs.io.boto3.S3Storage`, which also
            names the other options.
    """

    def __init__(
        self,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        bucket: str | None = None,
        host: str | None = None,
        policy: str | None = None,
        encrypt_key: bool = False,
        prefix: str = "",
        **options: Any,
    ) -> None:
        if encrypt_key:
            options.setdefault("encryption", "AES256")
        if host and host != _AWS:
            options.setdefault("endpoint_url", host if "://" in host else f"https://{host}")
            if found := _REGIONAL.fullmatch(host):
                options.setdefault("region_name", found[1])
        super().__init__(access_key_id, secret_access_key, bucket, policy=policy, prefix=prefix, **options)
