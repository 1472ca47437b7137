"""Files in an S3 bucket: one object a file, key `<prefix><id>`, metadata beside the bytes."""

from __future__ import annotations

import hashlib
import random
import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, Final

from depotfs.errors import (
    AccessDenied,
    AlreadyStored,
    ConfigurationError,
    DepotError,
    FileNotStored,
    StorageUnavailable,
    Unsupported,
    VersionChanged,
)
from depotfs.io.content import Content
from depotfs.io.durations import LONGEST_SIGNATURE, option_seconds
from depotfs.io.ids import is_canonical
from depotfs.io.interfaces import check_expected
from depotfs.io.native import NativeStorage
from depotfs.io.reader import ContentReader
from depotfs.io.s3_client import S3Settings, quoted
from depotfs.io.s3_errors import ConditionFailed, NotS3, UploadGone
from depotfs.io.s3_parts import LARGEST_OBJECT, copy_parts, pieces_of, send_parts
from depotfs.io.s3_requests import NO_CONDITION, Fields, Head, Listed, S3Requests, Stored
from depotfs.io.times import format_stored, parse_stored
from depotfs.io.utils import check_header_text, decode_header_text, encode_header_text, make_content_disposition
from depotfs.types import (
    ABSENT,
    ANY,
    OCTET_STREAM,
    PRESENT,
    UNNAMED,
    Expected,
    FileEntry,
    FileId,
    FileMetadata,
    FileStat,
)

_FILENAME: Final = "x-depot-filename"
_MODIFIED: Final = "x-depot-modified"
_COMMIT: Final = "x-depot-commit"
_UPLOAD: Final = "x-depot-upload"
"""Ours: an id of the request that stored the object, where no commit was given; tells our own after a lost reply."""

_RACES: Final = 5
"""How often a condition is tried again because of others before the call gives up."""
_PAUSE: Final = 0.05
"""Seconds before the second try; twice as long before each further one."""
_RACY: Final = 2
"""Seconds: what is younger may be changed again without another LastModified, whose seconds are whole."""
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}|arn:[a-z0-9-]+:s3[a-z0-9:/._-]*", re.ASCII)
"""Names that some server takes: AWS's own, older and longer ones, and ARNs of access points."""
_LARGEST_COPY: Final = 5 << 30
"""Bytes that CopyObject takes; more is copied in parts (S3 user guide, Copying objects)."""
_POLICIES: Final = (None, "private", "public-read")
_ENDPOINT: Final = re.compile(r"https?://[^/@?#]+(?:/[^?#]*)?", re.IGNORECASE)


class S3Storage(NativeStorage):
    """A bucket of AWS S3 or of a server that speaks its protocol.

    No request is made by the constructor, nothing is made public and no ACL is sent unless `policy` is
    "public-read", and no other endpoint is asked than the configured one.

    What is conditional is left to the server: If-None-Match and If-Match of PUT and of completed multipart uploads
    everywhere, those of DELETE and CopyObject on AWS. Elsewhere, and where a server answers 501, the object is
    looked at first; a change in the moment between looking and acting is then not noticed.

    A revision is ETag and LastModified, which S3 tells by the second. Of a file that was changed within the last two it
    is one that no listing tells, so that nothing is taken to be known that could have changed unseen (as git's index
    has it with racily clean entries).

    Args:
        access_key_id, secret_access_key: None or "" for boto3's own chain (environment, profile, role …).
        bucket: default `filedepot-<access key id in lower case>`; must be given where the keys are not.
        region_name: also `region`; default: what boto3 is configured for, else us-east-1.
        policy: "public-read" sends that ACL with each file and gives files a `public_url`; "private" is the default.
        storage_class: of new objects; default: the bucket's.
        endpoint_url: of a server that is not AWS, addressed by path.
        prefix: put before each id as it is; end it with "/" for a folder.
        session_token, profile_name: as boto3 has them.
        encryption: "AES256", "aws:kms" or "aws:kms:dsse"; default: what the bucket does by itself.
        kms_key_id: the key for aws:kms.
        requester_pays: agree to pay for the requests.
        presign: how long the signed `public_url` of a private file is valid: seconds, or a text like "1h".
        create_bucket: the first request is preceded by one that looks for the bucket, and makes it if there is none.
        timeout: seconds to connect and to wait for the next bytes.
        attempts: how often a request is sent in all where sending it again can help.

    Raises:
        ConfigurationError: an option is wrong.
    """

    max_size = LARGEST_OBJECT

    def __init__(
        self,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        bucket: str | None = None,
        region_name: str | None = None,
        policy: str | None = None,
        storage_class: str | None = None,
        endpoint_url: str | None = None,
        prefix: str = "",
        *,
        region: str | None = None,
        session_token: str | None = None,
        profile_name: str | None = None,
        encryption: str | None = None,
        kms_key_id: str | None = None,
        requester_pays: bool = False,
        presign: str | float | None = None,
        create_bucket: bool = False,
        timeout: str | float = 30.0,
        attempts: int = 5,
    ) -> None:
        if policy not in _POLICIES:
            raise ConfigurationError(f"S3 policy must be public-read or private, not {policy!r}")
        if bool(access_key_id) != bool(secret_access_key):
            raise ConfigurationError("S3 access_key_id and secret_access_key are given both or neither")
        if endpoint_url and not _ENDPOINT.fullmatch(endpoint_url):
            raise ConfigurationError("S3 endpoint_url must be http:// or https://, and hold no user and password")
        if not bucket and not access_key_id:
            raise ConfigurationError("S3 bucket must be given where access_key_id is not")
        if bucket and not _BUCKET.fullmatch(bucket):
            raise ConfigurationError(f"S3 bucket must be the name of a bucket, not {bucket!r}")
        if kms_key_id and not (encryption or "").startswith("aws:kms"):
            raise ConfigurationError("S3 kms_key_id needs encryption: aws:kms or aws:kms:dsse")
        if attempts < 1:
            raise ConfigurationError(f"S3 attempts must be at least 1, not {attempts}")
        self._policy = policy
        self._prefix = prefix
        presign_seconds = None if presign is None else option_seconds("S3 presign", presign, 1.0, LONGEST_SIGNATURE)
        self.presign_seconds = None if policy == "public-read" else presign_seconds
        self._fixed: dict[str, Any] = {"ACL": "public-read"} if policy == "public-read" else {}
        self._stored_as: dict[str, Any] = {"StorageClass": storage_class} if storage_class else {}
        if encryption:
            self._stored_as["ServerSideEncryption"] = encryption
        if kms_key_id:
            self._stored_as["SSEKMSKeyId"] = kms_key_id
        self._settings = S3Settings(
            bucket=bucket or f"filedepot-{str(access_key_id).lower()}",
            access_key_id=access_key_id or None,
            secret_access_key=secret_access_key or None,
            session_token=session_token,
            profile_name=profile_name,
            region_name=region_name or region,
            endpoint_url=endpoint_url,
            requester_pays=requester_pays,
            timeout=option_seconds("S3 timeout", timeout, 0.001, 3600.0),
            attempts=attempts,
        )
        owner = {"ObjectOwnership": "BucketOwnerPreferred"} if self._fixed and self._settings.is_aws else {}
        self._requests = S3Requests(self._settings, new_bucket=owner if create_bucket else None)
        self._lacking: set[str] = set()  # conditions that this server turned out not to know

    def identity(self) -> str:
        return f"s3 {self._settings.place} {self._settings.bucket}/{self._prefix}"

    def limit_calls(self, seconds: float | None) -> None:
        self._requests.limit(seconds)

    def close(self) -> None:
        self._requests.close()

    # --- reading ---------------------------------------------------------------------------------------------

    def stat(self, file_id: FileId) -> FileStat:
        return _stat_of(file_id, self._head(file_id))

    def _key(self, file_id: FileId) -> str:
        return self._prefix + file_id

    def _head(self, file_id: FileId) -> Head:
        return self._requests.head(self._key(file_id))

    def _find(self, file_id: FileId) -> Head | None:
        try:
            return self._head(file_id)
        except FileNotStored:
            return None

    def pages(self, after: str = "") -> Iterator[Sequence[FileEntry]]:
        token, last = "", ""
        while True:
            found, token = self._requests.list_page(self._prefix, self._prefix + after if after else "", token)
            if token and found and found[-1].key <= last:
                raise NotS3(f"S3 LIST {self.identity()}: the server goes on with what it has told already")
            last = found[-1].key if found else last
            page = [
                _entry_of(FileId(file_id), one)
                for one in found
                if is_canonical(file_id := one.key[len(self._prefix) :])
            ]
            if page:
                yield page
            if not token:
                return

    def open_content(self, file: FileId | FileStat) -> ContentReader:
        return _S3Reader(self._requests, self._prefix, self.stat(file) if isinstance(file, str) else file)

    def load(self, file_id: FileId, largest: int) -> tuple[FileStat, bytes | None]:
        """As `FileStorage.load`, by one request."""
        head, content = self._requests.load(self._key(file_id), largest)
        return _stat_of(file_id, head), content

    def public_url(self, stat: FileStat) -> str | None:
        if self._policy == "public-read":
            return self._requests.presigned(self._key(stat.file_id), 60).partition("?")[0]
        return self.presigned_url(stat, self.presign_seconds) if self.presign_seconds else None

    def presigned_url(self, stat: FileStat, expires: float) -> str | None:
        return self._requests.presigned(self._key(stat.file_id), min(expires, LONGEST_SIGNATURE))

    # --- storing ---------------------------------------------------------------------------------------------

    def put(
        self, content: Content, metadata: FileMetadata, *, file_id: FileId, expect: Expected = ANY, commit: str = ""
    ) -> FileStat:
        size, stored = self._store(content, metadata, file_id, expect, commit)
        return self._stat_of_stored(file_id, size, stored, metadata, commit)

    def store(self, content: Content, metadata: FileMetadata, *, file_id: FileId, expect: Expected = ANY) -> str:
        self._store(content, metadata, file_id, expect, "")
        return file_id

    def _store(
        self, content: Content, metadata: FileMetadata, file_id: FileId, expect: Expected, commit: str
    ) -> tuple[int, Stored]:
        """The size and what is told: content up to 16 MiB is stored by one request, more in parts."""
        key = self._key(file_id)
        pieces = pieces_of(content, self.identity())
        first, second = next(pieces, b""), next(pieces, None)
        own = {_COMMIT: commit} if commit else {_UPLOAD: uuid.uuid4().hex}
        fields = {**self._stored_as, **self._fields(metadata, own)}
        if second is None:
            return len(first), self._conditionally(
                file_id, expect, own, lambda condition: self._requests.put(key, first, fields, condition)
            )
        if expect is not ANY:
            check_expected(self, file_id, expect)  # before so much is sent in vain

        sizes: list[int] = []

        def counted() -> Iterator[bytes]:
            for piece in chain((first, second), pieces):
                sizes.append(len(piece))
                yield piece

        with send_parts(self._requests, key, fields, counted()) as finish:
            stored = self._conditionally(file_id, expect, own, finish)
        return sum(sizes), stored

    def _fields(self, metadata: FileMetadata, more: dict[str, str]) -> dict[str, Any]:
        texts = {
            _FILENAME: encode_header_text(metadata.filename),
            _MODIFIED: format_stored(metadata.modified),
            **more,
        }
        return {
            **self._fixed,
            "ContentType": check_header_text(metadata.content_type, "content type"),
            "ContentDisposition": make_content_disposition("inline", metadata.filename),
            "Metadata": texts,
        }

    def _stat_of_stored(
        self, file_id: FileId, size: int, stored: Stored, metadata: FileMetadata, commit: str
    ) -> FileStat:
        """Of what was just stored, even if somebody else has changed it by now."""
        if not stored.exact:
            found = self._find(file_id)
            if found is not None and found.etag == stored.etag:
                return _stat_of(file_id, found)
        revision, changed_ns = _racy(_revision(stored.etag, stored.changed), metadata), stored.changed * 10**9
        return FileStat(file_id, size, stored.etag, revision, metadata, changed_ns, commit, stored.checksum)

    def _conditionally(
        self, file_id: FileId, expect: Expected, own: dict[str, str], send: Callable[[Fields], Stored]
    ) -> Stored:
        """Sends what stores the file once `expect` holds. What is told of it, even if a first reply was lost."""
        last: DepotError | None = None
        doubted: set[str] = set()
        for race in range(_RACES):
            if race:
                time.sleep(random.uniform(0.5, 1.0) * _PAUSE * 2**race)
            condition = self._condition(file_id, expect)
            try:
                return send(condition)
            except Unsupported:
                if not condition:
                    self._lacking -= doubted  # it takes nothing at all now, with or without conditions
                    raise
                doubted = set(condition) - self._lacking
                self._lacking.update(condition)
            except (ConditionFailed, FileNotStored, UploadGone) as error:
                last = error
                found = self._find(file_id)
                if found is not None and own.items() <= found.metadata.items():
                    return Stored(found.etag, found.changed, found.checksum, exact=True)
                if isinstance(error, UploadGone):
                    raise
                if expect is not ANY:  # else only others' requests at the same time were in the way
                    self._raise_if_lost(file_id, expect, found)
                if expect == PRESENT and condition.get("IfMatch") == PRESENT:
                    self._lacking.add(PRESENT)
        raise StorageUnavailable(f"File {file_id} in {self.identity()} was busy all the time: {last}") from last

    def _condition(self, file_id: FileId, expect: Expected) -> Fields:
        """What tells the server to look for itself; looks for it where it cannot."""
        if expect is ANY:
            return NO_CONDITION
        if expect == ABSENT and "IfNoneMatch" not in self._lacking:
            return {"IfNoneMatch": "*"}
        if expect != ABSENT and "IfMatch" not in self._lacking:
            if expect != PRESENT or PRESENT not in self._lacking:
                return {"IfMatch": "*" if expect == PRESENT else quoted(expect)}
            return {"IfMatch": quoted(self.stat(file_id).version)}
        check_expected(self, file_id, expect)
        return NO_CONDITION

    def _raise_if_lost(self, file_id: FileId, expect: Expected, found: Head | None) -> None:
        """The error that `put` owes for what is there now; none if `expect` holds (again)."""
        where = f"in {self.identity()}"
        if expect == ABSENT and found is not None:
            raise AlreadyStored(f"File {file_id} is there already {where}")
        if expect == PRESENT and found is None:
            raise FileNotStored(f"File {file_id} is not there {where}")
        if expect not in (ABSENT, PRESENT) and (found is None or found.etag != expect):
            raise VersionChanged(f"File {file_id} was {'deleted' if found is None else 'replaced'} {where}")

    # --- copying and deleting --------------------------------------------------------------------------------

    def copy(
        self, source: FileStat, target: FileId, metadata: FileMetadata, *, expect: Expected = ANY, commit: str = ""
    ) -> FileStat:
        """As the contract says. The copy keeps headers, other metadata, tags, encryption and storage class.

        Onto itself it keeps the ACL too, where the credentials may read it.
        """
        return self._copied(source, self._source(source), target, metadata, expect, commit)

    def update(
        self,
        file: FileStat,
        *,
        filename: str | None = None,
        content_type: str | None = None,
        modified: int | None = None,
    ) -> FileStat:
        head = self._source(file)
        metadata = _stat_of(file.file_id, head).metadata.changed(filename, content_type, modified)
        return self._copied(file, head, file.file_id, metadata, file.version, "")

    def _copied(
        self, source: FileStat, head: Head, target: FileId, metadata: FileMetadata, expect: Expected, commit: str
    ) -> FileStat:
        own = {_COMMIT: commit} if commit else {}
        if target == source.file_id:
            self._raise_if_lost(target, expect, head) if expect is not ANY else None
            own = own or {name: head.metadata[name] for name in (_COMMIT, _UPLOAD) if name in head.metadata}
            condition = NO_CONDITION  # that on the source is one on the target
        else:
            condition = self._condition_of_copy(target, expect)
        fields = self._fields_of_copy(source.file_id, head, target, metadata, own)
        stored = self._copy(source, head, target, fields, condition, expect)
        return self._stat_of_stored(target, head.size, stored, metadata, own.get(_COMMIT, ""))

    def _source(self, source: FileStat) -> Head:
        head = self._find(source.file_id)
        if head is None or head.etag != source.version:
            raise VersionChanged(f"File {source.file_id} in {self.identity()} is no longer the version to be copied")
        return head

    def _condition_of_copy(self, target: FileId, expect: Expected) -> Fields:
        """Only on AWS: MinIO and moto ignore it, Swift refuses every copy that has it."""
        if self._settings.is_aws and expect not in (ANY, PRESENT):
            return {"IfNoneMatch": "*"} if expect == ABSENT else {"IfMatch": quoted(expect)}
        check_expected(self, target, expect)
        return NO_CONDITION

    def _copy(
        self, source: FileStat, head: Head, target: FileId, fields: Fields, condition: Fields, expect: Expected
    ) -> Stored:
        origin, key = self._key(source.file_id), self._key(target)
        try:
            if head.size > _LARGEST_COPY:
                return copy_parts(self._requests, origin, head, key, fields, condition)
            return self._requests.copy(origin, head.etag, key, fields, condition)
        except Unsupported:
            if not condition:
                raise
            check_expected(self, target, expect)
            return self._copy(source, head, target, fields, NO_CONDITION, expect)
        except (ConditionFailed, FileNotStored) as error:
            self._source(source)
            if condition:
                self._raise_if_lost(target, expect, self._find(target))
            raise VersionChanged(str(error)) from error

    def _fields_of_copy(
        self, source: FileId, head: Head, target: FileId, metadata: FileMetadata, own: dict[str, str]
    ) -> Fields:
        made = self._fields(metadata, own)
        if metadata.filename == _filename_of(head) and head.fields.get("ContentDisposition"):
            del made["ContentDisposition"]
        others = {name: text for name, text in head.metadata.items() if not name.startswith("x-depot-")}
        made["Metadata"] = {**others, **made["Metadata"]}
        if target != source:
            return {**head.fields, **self._stored_as, **made}
        return {**head.fields, **({} if self._fixed else self._grants(self._key(source))), **made}

    def _grants(self, key: str) -> Fields:
        try:
            return self._requests.grants(key)
        except (AccessDenied, Unsupported):
            return {}

    def remove(self, file_id: FileId, *, expect: Expected = ANY) -> None:
        condition = {"IfMatch": quoted(expect)} if expect not in (ANY, ABSENT, PRESENT) else NO_CONDITION
        if expect is not ANY and not (condition and self._settings.is_aws):
            found = self._find(file_id)
            if found is None:
                return
            self._raise_if_lost(file_id, expect, found)
        try:
            self._requests.delete(self._key(file_id), condition)
        except FileNotStored:
            return
        except Unsupported:
            if not condition:
                raise
            self._requests.delete(self._key(file_id))
        except ConditionFailed:
            found = self._find(file_id)
            if found is not None:
                self._raise_if_lost(file_id, expect, found)
                self._requests.delete(self._key(file_id))  # Swift compares ETags of objects in parts with another one


class _S3Reader(ContentReader):
    """One version of one object, by ranged requests that are conditional on its ETag."""

    def __init__(self, requests: S3Requests, prefix: str, stat: FileStat) -> None:
        self._requests = requests
        self._prefix = prefix
        self.stat = stat

    def pread(self, offset: int, size: int) -> bytes:
        stat = self.stat
        size = min(size, stat.size - offset)
        if size <= 0:
            return b""
        with self._version_kept():
            return self._requests.get(self._prefix + stat.file_id, stat.version, offset, size)

    def pieces(self, offset: int, size: int, piece: int) -> Iterator[bytes | memoryview]:
        stat = self.stat
        size = min(size, stat.size - offset)
        if size > 0:
            with self._version_kept():
                yield from self._requests.stream(self._prefix + stat.file_id, stat.version, offset, size, piece)

    @contextmanager
    def _version_kept(self) -> Iterator[None]:
        try:
            yield
        except (FileNotStored, ConditionFailed) as error:
            raise VersionChanged(f"File {self.stat.file_id} was replaced or deleted: {error}") from error

    def close(self) -> None:
        """Nothing is held between requests."""


def _revision(etag: str, changed: int) -> str:
    return f"{etag}@{changed}"


def _racy(revision: str, metadata: FileMetadata) -> str:
    """A revision that no listing tells: of what may change once more without another one."""
    told = f"{metadata.modified} {metadata.filename} {metadata.content_type}"
    return f"{revision}+{hashlib.blake2b(told.encode('utf-8', 'surrogatepass'), digest_size=8).hexdigest()}"


def _entry_of(file_id: FileId, listed: Listed) -> FileEntry:
    if listed.changed is None:
        return FileEntry(file_id, listed.size)
    return FileEntry(file_id, listed.size, _revision(listed.etag, listed.changed), listed.changed * 10**9)


def _filename_of(head: Head) -> str:
    return decode_header_text(head.metadata.get(_FILENAME, "")) or UNNAMED


def _stat_of(file_id: FileId, head: Head) -> FileStat:
    modified = parse_stored(head.metadata.get(_MODIFIED))
    content_type = str(head.fields.get("ContentType") or OCTET_STREAM)
    metadata = FileMetadata(_filename_of(head), content_type, head.changed if modified is None else modified)
    revision = _revision(head.etag, head.changed)
    return FileStat(
        file_id,
        head.size,
        head.etag,
        revision if head.asked - head.changed >= _RACY else _racy(revision, metadata),
        metadata,
        head.changed * 10**9,
        head.metadata.get(_COMMIT, ""),
        head.checksum,
    )
