"""Requests to one S3 bucket: get, head, list, put, parts, copy, delete, and nothing else of S3.

All that the S3 storage asks of a server goes through here; boto3 is the engine. Field names (`ContentType`,
`IfMatch` …) are those of the S3 API. Every error is one of ours, and names bucket, key and endpoint.
"""

from __future__ import annotations

import base64
import random
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import unquote_plus, urlencode
from xml.etree import ElementTree

from depotfs.errors import (
    AccessDenied,
    ContentDamaged,
    FileNotStored,
    StorageMissing,
    StorageUnavailable,
    VersionChanged,
)
from depotfs.io.checksums import ALGORITHMS, Checksums
from depotfs.io.locks import Lock
from depotfs.io.s3_client import LISTING, S3Client, S3Settings, quoted, unquoted
from depotfs.io.s3_clock import ServerClock
from depotfs.io.s3_errors import BROKEN_CONNECTION, ConditionFailed, NotS3, one_line, translated
from depotfs.io.s3_signed import S3SignedGets

Fields = Mapping[str, Any]
"""Parameters of a request, as the S3 API names them."""
NO_CONDITION: Final[Fields] = {}

_KEPT_BY_COPY: Final = (
    "CacheControl",
    "ContentDisposition",
    "ContentEncoding",
    "ContentLanguage",
    "ContentType",
    "StorageClass",
    "WebsiteRedirectLocation",
    "ServerSideEncryption",
    "SSEKMSKeyId",
    "BucketKeyEnabled",
)
_STEP: Final = 1 << 20
"""Bytes read from a body at once after a connection broke: what has arrived stays if the next one breaks too."""
_MD5: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Head:
    """What S3 tells of an object.

    Attributes:
        etag: without quotes; changed: seconds since the epoch (all that the header tells); asked: the server's time
        when it answered, likewise;
        metadata: user metadata, keys in lower case; fields: what a copy has to be given again to stay;
        checksum: as in `FileStat`.
    """

    size: int
    etag: str
    changed: int
    asked: int
    metadata: Mapping[str, str]
    fields: Fields
    checksum: str


@dataclass(frozen=True, slots=True)
class Listed:
    """One object in a listing; as in `Head`, None for what the server tells in no way that makes sense."""

    key: str
    size: int | None
    etag: str
    changed: int | None


@dataclass(frozen=True, slots=True)
class Stored:
    """What S3 tells of an object that it has just stored.

    Attributes:
        etag, changed, checksum: as in `Head`; exact: whether `changed` is known, or the second before or after it.
    """

    etag: str
    changed: int
    checksum: str
    exact: bool


class S3Requests:
    """Requests to the bucket of `settings`, from any thread. No request is made before the first method is called.

    Args:
        new_bucket: fields of a bucket that is made before the first request if there is none; None: none is made.
    """

    def __init__(self, settings: S3Settings, new_bucket: Fields | None = None) -> None:
        self.settings = settings
        self._new_bucket = new_bucket
        self._making = Lock()  # around making it, so that one thread does and the others find it
        self._client = S3Client(settings)
        self._signed = S3SignedGets(settings, self._client)
        self._clock = ServerClock()
        self._bucket_seen = False

    @contextmanager
    def _call(self, verb: str, key: str) -> Iterator[dict[str, Any]]:
        """Inside: the parameters that every request has. What boto3 raises leaves as an error of ours."""
        if self._new_bucket is not None:
            self._make_bucket()
        with translated(f"S3 {verb} {self.settings.bucket}/{key} at {self.settings.place}"):
            yield self._common(key)
        self._bucket_seen = True

    def _common(self, key: str) -> dict[str, Any]:
        common = {"Bucket": self.settings.bucket}
        if key:
            common["Key"] = key
        if self.settings.requester_pays:
            common["RequestPayer"] = "requester"
        return common

    def limit(self, seconds: float | None) -> None:
        """As `S3Client.limit`."""
        self._client.limit(seconds)

    def close(self) -> None:
        self._client.close()

    def head(self, key: str) -> Head:
        """One request; FileNotStored. The first time it finds nothing, a second one asks for the bucket."""
        try:
            with self._call("HEAD", key) as common:
                answer = self._client.current().head_object(**common, ChecksumMode="ENABLED")
        except FileNotStored:
            self._check_bucket()  # a HEAD's answer has no body that could tell a missing bucket
            raise
        return self._head_of(answer)

    def _head_of(self, answer: Fields) -> Head:
        metadata = {str(name).lower(): str(value) for name, value in answer.get("Metadata", {}).items()}
        fields = {name: answer[name] for name in _KEPT_BY_COPY if answer.get(name)}
        if answer.get("ExpiresString"):
            fields["Expires"] = answer["ExpiresString"]
        changed = int(self._told(answer, "LastModified").timestamp())
        etag = unquoted(self._told(answer, "ETag"))
        asked = self._date(answer)
        size = self._told(answer, "ContentLength")
        return Head(size, etag, changed, asked, metadata, fields, self._checksum(answer, etag))

    def _told(self, answer: Fields, name: str) -> Any:
        if name not in answer:
            where = f"{self.settings.bucket} at {self.settings.place}"
            raise NotS3(f"S3 {where}: what answers there is not S3, it told no {name}")
        return answer[name]

    def _check_bucket(self) -> None:
        if self._bucket_seen:
            return
        try:
            with self._call("HEAD", ""):
                self._client.current().head_bucket(Bucket=self.settings.bucket)
        except FileNotStored as error:
            raise StorageMissing(f"There is no bucket {self.settings.bucket} at {self.settings.place}") from error
        except AccessDenied:
            self._bucket_seen = True  # it exists, but may not be listed

    def _checksum(self, answer: Fields, etag: str) -> str:
        if answer.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT":
            for name, algorithm in (("ChecksumSHA256", "sha256"), ("ChecksumCRC32", "crc32")):
                value = str(answer.get(name) or "")
                if value and "-" not in value:
                    return f"{algorithm}:{base64.b64decode(value).hex()}"
        # Encrypted with a key of its own, or in a directory bucket ("--x-s3"), an object's ETag is not its MD5.
        plain = not str(answer.get("ServerSideEncryption", "")).startswith("aws:kms")
        is_md5 = plain and _MD5.fullmatch(etag) and not self.settings.bucket.endswith("--x-s3")
        return f"md5:{etag}" if is_md5 else ""

    def load(self, key: str, largest: int) -> tuple[Head, bytes | None]:
        """What `head` tells, and the whole object if it has at most `largest` bytes; one request. FileNotStored."""
        with self._call("GET", key) as common:
            answer = self._signed.load(key) or self._client.current().get_object(**common, ChecksumMode="ENABLED")
            head = self._head_of(answer)
            with closing(answer["Body"]) as body:
                content = body.read(head.size + 1) if head.size <= largest else None  # else the connection is given up
        if content is not None:
            self._check(key, head, content)
        return head, content

    def _check(self, key: str, head: Head, content: bytes) -> None:
        """Raises ContentDamaged if that is not the whole object that the server has."""
        where = f"S3 GET {self.settings.bucket}/{key} at {self.settings.place}"
        if len(content) != head.size:
            raise ContentDamaged(f"{where}: {len(content)} of {head.size} bytes came")
        algorithm = head.checksum.partition(":")[0]
        if algorithm in ALGORITHMS:
            running = Checksums([algorithm])
            running.add(content)
            if running.values()[algorithm] != head.checksum:
                raise ContentDamaged(f"{where}: other bytes came than are stored, by their {algorithm}")

    def get(self, key: str, etag: str, offset: int, size: int) -> bytes:
        """Exactly `size` > 0 bytes of that version. VersionChanged if it is gone, FileNotStored if the object is.

        A connection that breaks inside the body is followed by a request for the rest.
        """
        pieces: list[bytes] = []
        got = 0
        for attempt in range(1, self.settings.attempts + 1):
            body = self._open_range(key, etag, offset + got, size - got)
            step = size if attempt == 1 else _STEP  # all at once costs half the time (measured)
            try:
                while got < size and (piece := body.read(min(step, size - got))):
                    pieces.append(piece)
                    got += len(piece)
                why = f"the body ended after {got} of {size} bytes"
            except BROKEN_CONNECTION as error:
                why = str(error)
            if got == size:
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)
            body.close()
            if attempt < self.settings.attempts:
                time.sleep(random.uniform(0.01, min(2.0, 0.05 * 2**attempt)))
        raise StorageUnavailable(
            f"S3 GET {self.settings.bucket}/{key} at {self.settings.place}: {why} (tried {attempt} times)"
        )

    def stream(self, key: str, etag: str, offset: int, size: int, piece: int) -> Iterator[bytes]:
        """As `get`, in pieces of `piece` bytes, each as soon as it is here; one request, if no connection breaks."""
        end = offset + size
        while offset < end:
            with closing(self._open_range(key, etag, offset, end - offset)) as body, suppress(*BROKEN_CONNECTION):
                while offset < end:
                    data = body.read(min(piece, end - offset))
                    if len(data) < min(piece, end - offset):
                        break
                    offset += len(data)
                    yield data
            if offset < end:
                data = self.get(key, etag, offset, min(piece, end - offset))
                offset += len(data)
                yield data

    def _open_range(self, key: str, etag: str, offset: int, size: int) -> Any:
        with self._call("GET", key) as common:
            if (body := self._signed.open(key, etag, offset, size)) is not None:
                return body
            answer = self._client.current().get_object(
                **common, Range=f"bytes={offset}-{offset + size - 1}", IfMatch=quoted(etag)
            )
        whole_range = answer.get("ContentRange", f"bytes {offset}-" if not offset else "")
        if unquoted(self._told(answer, "ETag")) != etag or not whole_range.startswith(f"bytes {offset}-"):
            answer["Body"].close()
            raise VersionChanged(f"S3 GET {self.settings.bucket}/{key}: version {etag} is gone")
        return answer["Body"]

    def list_page(self, prefix: str, after: str, token: str = "") -> tuple[list[Listed], str]:
        """Up to 1,000 objects behind the key `after`, in order, and the token for more, "" at the end.

        Raises: NotS3, also where the server says that there is more but not how to go on: never a short listing.
        """
        start: Fields = {"ContinuationToken": token} if token else {"StartAfter": after} if after else {}
        with self._call("LIST", "") as common:
            answer = self._client.current().list_objects_v2(**common, Prefix=prefix, **start)
        root = answer[LISTING]
        if not root.tag.endswith("ListBucketResult"):
            raise NotS3(f"S3 LIST {self.settings.bucket} at {self.settings.place}: what answers there is not S3")
        found, more, following = _parse(root)
        if more and following in ("", token):
            where = f"S3 LIST {self.settings.bucket} at {self.settings.place}"
            raise NotS3(f"{where}: the server says that there is more, but not how to go on")
        return found, following if more else ""

    def _date(self, answer: Fields) -> int:
        """The server's time of its answer, to the second, or ours where it does not tell; its clock is learned."""
        told = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        if told is None:
            return int(time.time())
        date = self._seconds(told)
        self._clock.learn(time.monotonic(), date)
        return date

    def put(self, key: str, body: bytes, fields: Fields, condition: Fields) -> Stored:
        """The object is those bytes with those fields."""
        sent = time.monotonic()
        with self._call("PUT", key) as common:
            answer = self._client.current().put_object(**common, Body=body, **fields, **condition)
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
        told = headers.get("last-modified")  # some servers tell
        date = self._date(answer)
        exact = bool(told) or (
            "date" in answer["ResponseMetadata"]["HTTPHeaders"] and self._clock.was_within(sent, date)
        )
        return self._stored(answer, self._seconds(told) if told else date, exact=exact)

    def _seconds(self, moment: str) -> int:
        try:
            return seconds_of(moment)
        except (ValueError, TypeError, OverflowError) as error:
            where = f"{self.settings.bucket} at {self.settings.place}"
            raise NotS3(f"S3 {where}: {one_line(moment)!r} is no time: {error}") from error

    def _stored(self, answer: Fields, changed: int, *, exact: bool = False) -> Stored:
        if "ETag" not in answer:  # so Swift says that a write or delete that came at the same time goes before this one
            where = f"{self.settings.bucket} at {self.settings.place}"
            raise ConditionFailed(f"S3 {where}: another request was in the way, no ETag was told")
        etag = unquoted(answer["ETag"])
        return Stored(etag, changed, self._checksum(answer, etag), exact)

    def start_parts(self, key: str, fields: Fields) -> str:
        """The id of a new multipart upload, which must be finished or aborted."""
        with self._call("start parts of", key) as common:
            answer = self._client.current().create_multipart_upload(**common, **fields)
        return str(self._told(answer, "UploadId"))

    def put_part(self, key: str, upload: str, number: int, body: bytes) -> Fields:
        """Part `number` (from 1 on) is those bytes; what `finish_parts` wants to know of it."""
        with self._call(f"PUT part {number} of", key) as common:
            answer = self._client.current().upload_part(
                **common, UploadId=upload, PartNumber=number, Body=body, ChecksumAlgorithm="CRC32"
            )
        return self._part(number, answer)

    def copy_part(self, key: str, upload: str, number: int, source: str, etag: str, offset: int, size: int) -> Fields:
        """Part `number` is that range of another object's version."""
        with self._call(f"copy part {number} of", key) as common:
            answer = self._client.current().upload_part_copy(
                **common,
                UploadId=upload,
                PartNumber=number,
                CopySource={"Bucket": self.settings.bucket, "Key": source},
                CopySourceIfMatch=quoted(etag),
                CopySourceRange=f"bytes={offset}-{offset + size - 1}",
            )
        return self._part(number, self._told(answer, "CopyPartResult"))

    def _part(self, number: int, answer: Fields) -> Fields:
        checksum = {"ChecksumCRC32": answer["ChecksumCRC32"]} if answer.get("ChecksumCRC32") else {}
        return {"PartNumber": number, "ETag": self._told(answer, "ETag"), **checksum}

    def finish_parts(self, key: str, upload: str, parts: list[Fields], condition: Fields) -> Stored:
        """The object is those parts, in order. UploadGone."""
        with self._call("finish parts of", key) as common:
            answer = self._client.current().complete_multipart_upload(
                **common, UploadId=upload, MultipartUpload={"Parts": parts}, **condition
            )
        return self._stored(answer, self._date(answer))

    def abort_parts(self, key: str, upload: str) -> None:
        """Nothing is left of the upload."""
        with self._call("abort parts of", key) as common:
            self._client.current().abort_multipart_upload(**common, UploadId=upload)

    def copy(self, source: str, etag: str, key: str, fields: Fields, condition: Fields) -> Stored:
        """`key` has the bytes and tags of that version of `source` and those fields. At most 5 GiB."""
        with self._call(f"copy {source} to", key) as common:
            answer = self._client.current().copy_object(
                **common,
                CopySource={"Bucket": self.settings.bucket, "Key": source},
                CopySourceIfMatch=quoted(etag),
                MetadataDirective="REPLACE",
                **fields,
                **condition,
            )
        result = self._told(answer, "CopyObjectResult")
        return self._stored({**answer, **result}, int(result["LastModified"].timestamp()))

    def delete(self, key: str, condition: Fields = NO_CONDITION) -> None:
        """There is no such object."""
        with self._call("DELETE", key) as common:
            self._client.current().delete_object(**common, **condition)

    def grants(self, key: str) -> Fields:
        """Who besides the owner may do what, as fields that give the same rights to a new object; none if nobody."""
        with self._call("GET acl of", key) as common:
            answer = self._client.current().get_object_acl(**common)
        owner = answer.get("Owner", {}).get("ID")
        found: dict[str, list[str]] = {}
        for grant in answer.get("Grants", ()):
            grantee, field = grant.get("Grantee", {}), _GRANTS.get(grant.get("Permission"))
            name = next((name for name in ("ID", "URI") if grantee.get(name)), "")
            if field and name:
                found.setdefault(field, []).append(f'{name.lower()}="{grantee[name]}"')
        alone = {"GrantFullControl": [f'id="{owner}"']}
        return {} if found == alone else {field: ", ".join(whom) for field, whom in found.items()}

    def tags(self, key: str) -> Fields:
        """The object's tags as the field that gives them to a new one."""
        with self._call("GET tags of", key) as common:
            answer = self._client.current().get_object_tagging(**common)
        pairs = [(tag["Key"], tag["Value"]) for tag in answer.get("TagSet", ())]
        return {"Tagging": urlencode(pairs)} if pairs else {}

    def presigned(self, key: str, seconds: float) -> str:
        """A URL that lets its holder GET the object for so long; made without a request."""
        params = self._common(key)
        with translated(f"S3 presign {self.settings.bucket}/{key} at {self.settings.place}"):
            client = self._client.current()
            return str(client.generate_presigned_url("get_object", Params=params, ExpiresIn=max(1, int(seconds))))

    def _make_bucket(self) -> None:
        """The bucket exists, made in the client's region if it did not. What fails is tried again by the next call."""
        with self._making, translated(f"S3 create bucket {self.settings.bucket} at {self.settings.place}"):
            if self._new_bucket is None:
                return
            client, fields = self._client.current(), self._new_bucket
            region = client.meta.region_name
            if region != "us-east-1":
                fields = {**fields, "CreateBucketConfiguration": {"LocationConstraint": region}}
            try:
                client.head_bucket(Bucket=self.settings.bucket)
            except client.exceptions.ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                if status not in (403, 404):  # 403: it is there, but may not be looked at
                    raise
                if status == 404:
                    with suppress(client.exceptions.BucketAlreadyOwnedByYou):  # another process was faster
                        client.create_bucket(Bucket=self.settings.bucket, **fields)
            self._new_bucket = None


_GRANTS: Final = {
    "READ": "GrantRead",
    "READ_ACP": "GrantReadACP",
    "WRITE_ACP": "GrantWriteACP",
    "FULL_CONTROL": "GrantFullControl",
}


def _parse(root: ElementTree.Element) -> tuple[list[Listed], bool, str]:
    """What was listed, whether there is more, and the token to go on with."""
    namespace = root.tag[: root.tag.find("}") + 1]  # some servers leave it out

    def text(node: ElementTree.Element, name: str) -> str:
        return node.findtext(namespace + name) or ""

    encoded = text(root, "EncodingType") == "url"
    found = [
        Listed(
            unquote_plus(text(node, "Key")) if encoded else text(node, "Key"),
            _size_of(text(node, "Size")),
            unquoted(text(node, "ETag")),
            _moment_of(text(node, "LastModified")),
        )
        for node in root.iter(namespace + "Contents")
    ]
    return found, text(root, "IsTruncated") == "true", text(root, "NextContinuationToken")


def _size_of(text: str) -> int | None:
    plain = text.isascii() and text.isdigit() and len(text) <= 18
    return int(text) if plain else None


def _moment_of(text: str) -> int | None:
    """One odd object in a listing is no reason to show none."""
    try:
        return seconds_of(text)
    except (ValueError, TypeError, OverflowError):
        return None


def seconds_of(moment: str) -> int:
    """Whole seconds since the epoch of a time in a listing or a header."""
    try:
        return int(datetime.fromisoformat(moment).timestamp())
    except ValueError:
        return int(parsedate_to_datetime(moment).timestamp())
