"""Files in a Google Cloud Storage bucket: an object per file, readable and writable by filedepot 0.12 too."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from depotfs.errors import (
    AlreadyStored,
    ConfigurationError,
    ContentDamaged,
    DepotError,
    FileNotStored,
    InvalidMetadata,
    StorageUnavailable,
    VersionChanged,
)
from depotfs.io import gcs_listing, gcs_upload
from depotfs.io.content import Content
from depotfs.io.durations import LONGEST_SIGNATURE, option_seconds
from depotfs.io.gcs_answers import Answer, Json, unexpected
from depotfs.io.gcs_copy import rewritten
from depotfs.io.gcs_credentials import GcsCredentials
from depotfs.io.gcs_objects import FIELDS, changed_resource, is_upload, new_resource, stat_of
from depotfs.io.gcs_requests import DEFAULT_ENDPOINT, GcsRequests, bucket_path, object_path
from depotfs.io.ids import is_canonical
from depotfs.io.interfaces import PAGE
from depotfs.io.native import NativeStorage
from depotfs.io.reader import ContentReader
from depotfs.types import (
    ABSENT,
    ANY,
    PRESENT,
    Expected,
    FileEntry,
    FileId,
    FileMetadata,
    FileStat,
)


class GCSStorage(NativeStorage):
    """A bucket, or what lies under a prefix of it.

    Nothing is asked of the service before it is needed. All that is asked goes to `endpoint` (access tokens come from
    where the credentials say). The default sends no access list at all.

    A version is the object's generation, so every expectation is checked by the service in the step that it is for.
    A replaced or deleted file's readers get VersionChanged, except in a bucket that keeps old generations.
    Objects that were uploaded with `Content-Encoding: gzip` are read as they are stored, compressed.

    Args:
        project_id: only needed to make a bucket; by default the credentials'.
        credentials: a dict as Google issues it (service account and others) or its JSON text, the path of such a
            file, a google.auth credentials object, or None: the application default credentials
            (GOOGLE_APPLICATION_CREDENTIALS, gcloud's, the machine's own). A file is read here to see that it is
            there, and again with each new client.
        policy: "public-read": every object that is written may be read by anybody by its plain URL (the bucket's own
            policy stays as it is). "private" or None: nothing is made public.
        storage_class: of what is written, by default the bucket's.
        prefix: plain text before each id.
        endpoint: another server with the same API; by default STORAGE_EMULATOR_HOST (then without credentials,
            where none are given), else Google's.
        anonymous: no credentials are used, and none are looked for.
        presign: where nothing is public: how long the signed `public_url` is valid, seconds or a text like "1h".
        create_bucket: the first request is preceded by one that looks for the bucket, and makes it if there is none;
            it raises ConfigurationError where neither `project_id` nor the credentials say in which project.
        timeout: seconds of silence after which an attempt has failed; attempts: how many there are at most.
    Raises:
        ConfigurationError: an option is wrong.
    """

    max_size = gcs_upload.MAX_SIZE

    def __init__(
        self,
        project_id: str | None = None,
        credentials: Any = None,
        bucket: str | None = None,
        policy: str | None = None,
        storage_class: str | None = None,
        prefix: str = "",
        *,
        endpoint: str | None = None,
        anonymous: bool = False,
        presign: str | float | None = None,
        create_bucket: bool = False,
        timeout: str | float = 30.0,
        attempts: int = 5,
    ) -> None:
        if not bucket:
            raise ConfigurationError("GCS needs a bucket")
        if policy not in (None, "public-read", "private"):
            raise ConfigurationError(f"GCS policy must be public-read or private, not {policy!r}")
        if attempts < 1:
            raise ConfigurationError(f"GCS attempts must be at least 1, not {attempts}")
        emulator = os.environ.get("STORAGE_EMULATOR_HOST") if endpoint is None else None
        if emulator and not credentials:
            anonymous = True
        endpoint = _url(endpoint or emulator or DEFAULT_ENDPOINT)
        self.bucket_name = bucket
        self.prefix = prefix
        self._public = policy == "public-read"
        presign_seconds = None if presign is None else option_seconds("GCS presign", presign, 1.0, LONGEST_SIGNATURE)
        self.presign_seconds = None if self._public else presign_seconds
        self._storage_class = storage_class
        self._requests = GcsRequests(
            endpoint,
            project_id,
            None if anonymous else GcsCredentials(credentials),
            timeout=option_seconds("GCS timeout", timeout, 0.001, 3600.0),
            attempts=attempts,
            new_bucket=({"name": bucket} | ({"storageClass": storage_class} if storage_class else {}))
            if create_bucket
            else None,
        )

    # --- what it is ------------------------------------------------------------------------------------------

    @property
    def client(self) -> Any:
        """The `google.cloud.storage.Client` beneath."""
        return self._requests.client

    @property
    def bucket(self) -> Any:
        """The `google.cloud.storage.Bucket`; nothing is asked."""
        return self.client.bucket(self.bucket_name)

    def identity(self) -> str:
        return f"gcs:{self._requests.endpoint}/{self.bucket_name}/{self.prefix}"

    def limit_calls(self, seconds: float | None) -> None:
        self._requests.patience.seconds = seconds

    def close(self) -> None:
        self._requests.close()

    def _name(self, file_id: str) -> str:
        return self.prefix + file_id

    def _object(self, file_id: str) -> str:
        return object_path(self.bucket_name, self._name(file_id))

    def _what(self, doing: str, file_id: str) -> str:
        return f"{doing} file {file_id} in {self.identity()}"

    # --- reading ---------------------------------------------------------------------------------------------

    def stat(self, file_id: FileId) -> FileStat:
        found = self._look(file_id)
        if found is None:
            raise self._not_stored(file_id)
        return stat_of(file_id, found)

    def pages(self, after: str = "") -> Iterator[Sequence[FileEntry]]:
        if after >= "g":
            return
        params = {
            "prefix": self.prefix,
            "delimiter": "/",  # what lies deeper is no file of ours
            "startOffset": self.prefix + max(after, "0"),  # ids begin with 0 to 9 or a to f
            "endOffset": self.prefix + "g",
            "maxResults": str(PAGE),
            "fields": f"kind,nextPageToken,items({FIELDS})",
        }
        what = f"Listing {self.identity()}"

        def ask(token: str) -> Json:
            asked = params | ({"pageToken": token} if token else {})
            answer = self._requests.send(what, "GET", f"{bucket_path(self.bucket_name)}/o", params=asked)
            if not answer.ok:
                raise self._unexpected(answer, what)
            return answer.json()

        for items in gcs_listing.listed(what, ask, self._warn_of):
            if page := [entry for item in items if (entry := self._entry(item, after))]:
                yield page

    def _entry(self, resource: Json, after: str) -> FileEntry | None:
        file_id = FileId(resource["name"][len(self.prefix) :])
        if not is_canonical(file_id) or file_id <= after:  # both ASCII where the first is canonical
            return None
        try:
            stat = stat_of(file_id, resource)
        except InvalidMetadata:
            return FileEntry(file_id)
        return FileEntry(file_id, stat.size, stat.revision, stat.changed_ns, stat)

    def open_content(self, file: FileId | FileStat) -> ContentReader:
        return _Reader(self, self.stat(file) if isinstance(file, str) else file)

    def read_range(self, stat: FileStat, offset: int, size: int) -> bytes:
        """Exactly those bytes of that version; they must lie within it. VersionChanged."""
        what = self._what("Reading", stat.file_id)
        params = {"alt": "media", "generation": stat.version}
        url = f"/download{self._object(stat.file_id)}"
        answer = self._requests.download(what, url, params, offset, size, stat.size)
        if answer.status in (404, 412):
            raise VersionChanged(f"{what}: version {stat.version} is gone")
        if answer.status == 416:
            raise ContentDamaged(f"{what}: the server has fewer bytes than the {stat.size} that it tells of")
        if not answer.ok:
            raise self._unexpected(answer, what)
        if answer.headers.get("X-Goog-Generation", stat.version) != stat.version:
            raise VersionChanged(f"{what}: it was replaced")
        return answer.body

    # --- writing ---------------------------------------------------------------------------------------------

    def put(
        self, content: Content, metadata: FileMetadata, *, file_id: FileId, expect: Expected = ANY, commit: str = ""
    ) -> FileStat:
        resource = new_resource(metadata, commit, self._storage_class) | {"name": self._name(file_id)}
        params = self._conditions(file_id, expect) | self._access("predefinedAcl") | {"fields": FIELDS}
        what = self._what("Storing", file_id)
        path = gcs_upload.upload_path(self.bucket_name)
        upload = gcs_upload.Upload(self._requests, what, path, resource, params, content)
        with self._requests.patience.call():
            answer = upload.run()
        if not answer.ok:
            return self._stored_before(answer, what, file_id, expect, resource)
        stored = answer.json()
        if upload.checksum.differs(stored):  # or the answer alone is damaged
            stored = self._find_ours(file_id, resource) or {}
        stat = self._stat_of_written(stored, what, file_id, resource)
        if upload.checksum.differs(stored):
            self._requests.send(what, "DELETE", self._object(file_id), params={"generation": stat.version}, empty=True)
            raise ContentDamaged(f"{what}: the stored bytes have another checksum than those that were sent")
        return stat

    def update(
        self,
        file: FileStat,
        *,
        filename: str | None = None,
        content_type: str | None = None,
        modified: int | None = None,
    ) -> FileStat:
        changes = changed_resource(filename, content_type, modified)
        what = self._what("Updating", file.file_id)
        params = {"ifGenerationMatch": file.version, "fields": FIELDS}
        answer = self._requests.send(what, "PATCH", self._object(file.file_id), params=params, body=changes)
        if answer.status == 404:
            raise self._not_stored(file.file_id)
        if not answer.ok:
            raise self._refused(answer, what, file.file_id, file.version)
        try:
            return stat_of(file.file_id, answer.json())
        except InvalidMetadata:
            return self.stat(file.file_id)

    def copy(
        self, source: FileStat, target: FileId, metadata: FileMetadata, *, expect: Expected = ANY, commit: str = ""
    ) -> FileStat:
        what = f"Copying file {source.file_id} to {target} in {self.identity()}"
        resource = new_resource(metadata, commit, self._storage_class)
        params = self._conditions(target, expect) | self._access("destinationPredefinedAcl")
        params |= {"sourceGeneration": source.version}
        path = f"{self._object(source.file_id)}/rewriteTo{self._object(target).removeprefix('/storage/v1')}"
        with self._requests.patience.call():
            answer = rewritten(self._requests, what, path, params, resource)
        if not answer.ok:
            return self._stored_before(answer, what, target, expect, resource, source.version)
        copied = answer.json().get("resource")
        return self._stat_of_written(copied if isinstance(copied, dict) else {}, what, target, resource)

    def remove(self, file_id: FileId, *, expect: Expected = ANY) -> None:
        what = self._what("Deleting", file_id)
        params = {} if expect in (ANY, PRESENT) else self._conditions(file_id, expect)
        answer = self._requests.send(what, "DELETE", self._object(file_id), params=params, empty=True)
        if not answer.ok and answer.status != 404:
            raise self._refused(answer, what, file_id, expect)

    def _access(self, parameter: str) -> dict[str, str]:
        return {parameter: "publicRead"} if self._public else {}

    def _conditions(self, file_id: FileId, expect: Expected) -> dict[str, str]:
        if expect is ANY:
            return {}
        if expect == ABSENT:
            return {"ifGenerationMatch": "0"}
        if expect == PRESENT:
            return {"ifGenerationNotMatch": "0"}
        if not (expect.isascii() and expect.isdigit()) or int(expect) == 0:  # to the service, 0 means absent
            raise VersionChanged(f"File {file_id} has no version {expect!r} in {self.identity()}")
        return {"ifGenerationMatch": expect}

    def _stored_before(
        self, answer: Answer, what: str, file_id: FileId, expect: Expected, wanted: Json, source: str = ""
    ) -> FileStat:
        """What an attempt or a call before this one has stored, whose reply was lost; else the refusal is raised.

        Args:
            source: the version that was to be copied.
        """
        if answer.status in (404, 412) and (found := self._find_ours(file_id, wanted)):
            return stat_of(file_id, found)
        if answer.status == 404 and source:
            raise VersionChanged(f"{what}: version {source} of the source is gone")
        raise self._refused(answer, what, file_id, expect)

    def _refused(self, answer: Answer, what: str, file_id: FileId, expect: Expected) -> DepotError:
        if answer.status != 412:
            return self._unexpected(answer, what)
        there = str((self._look(file_id) or {}).get("generation", ABSENT))
        if expect in (ANY, there) or (expect == PRESENT and there):
            return StorageUnavailable(f"{what}: {self._requests.endpoint} refuses it, though all is as expected")
        if expect == ABSENT:
            return AlreadyStored(f"{what}: it is there already")
        return self._not_stored(file_id) if expect == PRESENT else VersionChanged(f"{what}: version {expect} is gone")

    def _stat_of_written(self, resource: Json, what: str, file_id: FileId, wanted: Json) -> FileStat:
        """The stat of what was written; where the answer does not tell it, what stands there does."""
        try:
            return stat_of(file_id, resource)
        except InvalidMetadata:
            found = self._find_ours(file_id, wanted)
        if found is None:
            raise StorageUnavailable(f"{what}: {self._requests.endpoint} does not tell whether it is done")
        return stat_of(file_id, found)

    def _find_ours(self, file_id: FileId, wanted: Json) -> Json | None:
        found = self._look(file_id)
        return found if found and is_upload(found, wanted) else None

    def _look(self, file_id: FileId) -> Json | None:
        """The resource of the file's object, None where there is none."""
        what = self._what("Looking at", file_id)
        answer = self._requests.send(what, "GET", self._object(file_id), params={"fields": FIELDS})
        if not answer.ok and answer.status != 404:
            raise self._unexpected(answer, what)
        return answer.json() if answer.ok else None

    # --- links -----------------------------------------------------------------------------------------------

    def public_url(self, stat: FileStat) -> str | None:
        if self._public:
            return f"{self._requests.endpoint}/{self.bucket_name}/{quote(self._name(stat.file_id))}"
        return self.presigned_url(stat, self.presign_seconds) if self.presign_seconds else None

    def presigned_url(self, stat: FileStat, expires: float) -> str | None:
        """None where the credentials cannot sign (anonymous, or a user's); 7 days at most, by V4's rules."""
        return self._requests.signed_url(self.bucket_name, self._name(stat.file_id), expires)

    # --- refusals --------------------------------------------------------------------------------------------

    def _unexpected(self, answer: Answer, what: str) -> DepotError:
        return unexpected(answer, self._requests.told(what, answer), public=self._public)

    def _not_stored(self, file_id: str) -> FileNotStored:
        return FileNotStored(f"File {file_id} is not stored in {self.identity()}")


class _Reader(ContentReader):
    """One generation of an object."""

    def __init__(self, storage: GCSStorage, stat: FileStat) -> None:
        self._storage = storage
        self.stat = stat

    def pread(self, offset: int, size: int) -> bytes:
        stat = self.stat
        wanted = min(size, stat.size - offset)
        return self._storage.read_range(stat, offset, wanted) if wanted > 0 else b""

    def close(self) -> None:
        """Nothing is held between reads."""


def _url(endpoint: str) -> str:
    if "@" in endpoint:
        raise ConfigurationError("GCS endpoint must hold no user and password")
    return (endpoint if "://" in endpoint else f"http://{endpoint}").rstrip("/")
