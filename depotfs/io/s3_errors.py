"""S3's failures as errors of ours, by cause."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, cast
from xml.etree import ElementTree

import botocore.exceptions
import botocore.parsers
import urllib3.exceptions

from depotfs.errors import (
    AccessDenied,
    ConfigurationError,
    ContentDamaged,
    DepotError,
    FileNotStored,
    InvalidMetadata,
    QuotaExceeded,
    StorageFull,
    StorageMissing,
    StorageUnavailable,
    TooLarge,
    Unsupported,
    VersionChanged,
)


class ConditionFailed(VersionChanged):
    """The request's condition did not hold, or other requests were in its way (412, 409): nothing was done by it.

    If it was sent twice because a reply was lost, the first one may have been done.
    """


class UploadGone(StorageUnavailable):
    """The multipart upload is not there: aborted, or completed by a request whose reply was lost."""


class RefusedAsTooLarge(TooLarge):
    """The server, or a proxy before it, takes nothing so large, which somebody can change there."""

    curable = True


class NotImplementedThere(Unsupported):
    """The server does not know the request (501), or something before it that can go away."""

    curable = True


_BY_CODE: Final[dict[str, type[DepotError]]] = {
    "NoSuchBucket": StorageMissing,
    "NoSuchKey": FileNotStored,
    "NoSuchVersion": FileNotStored,
    "NoSuchUpload": UploadGone,
    "InvalidPart": UploadGone,
    "InvalidPartOrder": UploadGone,
    "PreconditionFailed": ConditionFailed,
    "ConditionalRequestConflict": ConditionFailed,
    "OperationAborted": ConditionFailed,
    "NotImplemented": NotImplementedThere,
    "EntityTooLarge": RefusedAsTooLarge,
    "QuotaExceeded": QuotaExceeded,
    "XMinioAdminBucketQuotaExceeded": QuotaExceeded,
    "XMinioStorageFull": StorageFull,
    "InsufficientStorage": StorageFull,
    "BadDigest": ContentDamaged,
    "InvalidDigest": ContentDamaged,
    "XAmzContentSHA256Mismatch": ContentDamaged,
    "XAmzContentChecksumMismatch": ContentDamaged,
    "IncompleteBody": StorageUnavailable,
    "RequestTimeout": StorageUnavailable,
    "SlowDown": StorageUnavailable,
    "InternalError": StorageUnavailable,
    "ServiceUnavailable": StorageUnavailable,
    "MetadataTooLarge": InvalidMetadata,
    "RequestHeaderSectionTooLarge": InvalidMetadata,
    "InvalidBucketName": ConfigurationError,
    "PermanentRedirect": ConfigurationError,
    "AuthorizationHeaderMalformed": ConfigurationError,
    "IllegalLocationConstraintException": ConfigurationError,
    "AccessControlListNotSupported": ConfigurationError,
    "InvalidAccessKeyId": AccessDenied,
    "InvalidToken": AccessDenied,
    "ExpiredToken": AccessDenied,
    "400": AccessDenied,  # to a HEAD, whose answer has no body that could tell one of these codes
}
"""Codes that tell the cause better than the status, or come with none."""

_BY_STATUS: Final[dict[int, type[DepotError]]] = {
    301: ConfigurationError,
    401: AccessDenied,
    403: AccessDenied,
    404: FileNotStored,
    409: ConditionFailed,
    408: StorageUnavailable,
    412: ConditionFailed,
    413: RefusedAsTooLarge,
    429: StorageUnavailable,
    501: NotImplementedThere,
    507: StorageFull,
}

_LONGEST_MESSAGE: Final = 500
_CREDENTIALS: Final = (
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.CredentialRetrievalError,
    botocore.exceptions.TokenRetrievalError,
    botocore.exceptions.SSOError,
)
_CONFIGURATION: Final = (
    botocore.exceptions.ProfileNotFound,
    botocore.exceptions.ConfigParseError,
    botocore.exceptions.ConfigNotFound,
    botocore.exceptions.NoRegionError,
    botocore.exceptions.InvalidRegionError,
    botocore.exceptions.UnknownEndpointError,
)
BROKEN_CONNECTION: Final = (
    botocore.exceptions.ConnectionError,
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.IncompleteReadError,
    urllib3.exceptions.HTTPError,
    OSError,
)
"""What is raised where a connection is not made, is reset, stalls, or ends before the body does."""
_NOT_S3: Final = (botocore.parsers.ResponseParserError, ElementTree.ParseError)


class NotS3(StorageUnavailable):
    """What answered is not S3: a proxy's page, or another service. Not to be taken for a bucket that holds nothing."""


def cause_of(status: int, code: str) -> type[DepotError]:
    """The class of error that an answer of the server means."""
    return _BY_CODE.get(code) or _BY_STATUS.get(status) or (StorageUnavailable if status >= 500 else DepotError)


def _from_answer(what: str, answer: Mapping[str, Any]) -> DepotError:
    """An error of ours for a parsed answer that is an error."""
    meta, error = answer.get("ResponseMetadata", {}), answer.get("Error", {})
    status, code = int(meta.get("HTTPStatusCode", 0)), one_line(error.get("Code", ""))
    cause = cause_of(status, code)
    tried = f" (tried {meta['RetryAttempts'] + 1} times)" if meta.get("RetryAttempts") else ""
    told = seconds_told(meta.get("HTTPHeaders", {}).get("retry-after", "")) if cause is StorageUnavailable else None
    message = one_line(error.get("Message", ""))
    return cause(f"{what}: {' '.join(dict.fromkeys((str(status), code)))} {message}{tried}", retry_after=told)


def one_line(text: object) -> str:
    """What a server says, fit for a message: on one line, and not without end."""
    return " ".join(str(text)[:_LONGEST_MESSAGE].split())


def seconds_told(text: object) -> float | None:
    """Seconds that a Retry-After header means, None where it is none that makes sense."""
    digits = str(text)
    return float(digits) if digits.isascii() and digits.isdigit() and len(digits) < 6 else None


@contextmanager
def translated(what: str) -> Iterator[None]:
    """What boto3 raises inside leaves as an error of ours; `what` says what failed, on what, where."""
    try:
        yield
    except botocore.exceptions.ClientError as error:
        raise _from_answer(what, cast(dict[str, Any], error.response)) from error
    except _CREDENTIALS as error:
        raise AccessDenied(f"{what}: {error}") from error
    except _CONFIGURATION as error:
        raise ConfigurationError(f"{what}: {error}") from error
    except botocore.exceptions.ParamValidationError as error:
        raise InvalidMetadata(f"{what}: {error}") from error
    except BROKEN_CONNECTION as error:
        if isinstance(error, DepotError):
            raise
        raise StorageUnavailable(f"{what}: {error}") from error
    except _NOT_S3 as error:
        raise NotS3(f"{what}: what answers there is not S3: {error}") from error
    except botocore.exceptions.BotoCoreError as error:
        raise DepotError(f"{what}: {error}") from error
