"""What the fake Google Cloud Storage keeps: buckets, the generations of their objects, and the rules of both.

The rules are those that the service documents of preconditions, checksums, metadata patches and access lists.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import google_crc32c

Json = dict[str, Any]
_WRITABLE = frozenset(("contentType", "contentEncoding", "contentDisposition", "contentLanguage", "cacheControl"))
_WRITABLE |= {"storageClass", "customTime", "metadata"}


class ApiError(Exception):
    """An answer of the service that is an error (or 304)."""

    def __init__(self, status: int, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.reason = status, message, reason


@dataclass
class StoredObject:
    """One generation of an object."""

    data: bytes
    resource: Json
    acl: list[Json]

    @property
    def generation(self) -> int:
        return int(self.resource["generation"])

    @property
    def metageneration(self) -> int:
        return int(self.resource["metageneration"])

    @property
    def public(self) -> bool:
        return any(entry["entity"] == "allUsers" for entry in self.acl)

    def patch(self, changes: Json) -> None:
        """JSON merge patch of what may be changed; the metageneration grows."""
        if isinstance(acl := changes.get("acl"), list):
            self.acl = acl
        for key in _WRITABLE & changes.keys():
            value = changes[key]
            if key == "metadata" and isinstance(value, dict):
                merged = {**self.resource.get("metadata", {}), **value}
                value = {k: v for k, v in merged.items() if v is not None} or None
            if value is None:
                self.resource.pop(key, None)
            else:
                self.resource[key] = value
        self.resource["metageneration"] = str(self.metageneration + 1)
        self.resource["updated"] = now()
        self.resource["etag"] = _etag(self.resource)


@dataclass
class Bucket:
    """A bucket and its objects' generations by name, oldest first (more than one only where it is versioned)."""

    resource: Json
    objects: dict[str, list[StoredObject]] = field(default_factory=dict)
    policy: Json = field(
        default_factory=lambda: {"kind": "storage#policy", "bindings": [], "version": 1, "etag": "CA=="}
    )

    @property
    def name(self) -> str:
        return str(self.resource["name"])

    @property
    def versioned(self) -> bool:
        return bool(self.resource.get("versioning", {}).get("enabled"))

    def live(self, name: str) -> StoredObject | None:
        """The current generation, None where there is none."""
        generations = self.objects.get(name)
        return generations[-1] if generations and "timeDeleted" not in generations[-1].resource else None

    def find(self, name: str, query: Mapping[str, str], prefix: str = "") -> StoredObject:
        """The generation that `query` asks for, its preconditions checked. 404, 412 or 304."""
        wanted = query.get("generation")
        found = self.live(name)
        if wanted:
            found = next((o for o in self.objects.get(name, ()) if o.generation == int(wanted)), None)
        if found is None:
            raise ApiError(404, f"No such object: {self.name}/{name}")
        check_conditions(found, query, prefix)
        return found

    def retire(self, name: str) -> None:
        """The live generation is no longer live: archived where the bucket is versioned, else gone."""
        if self.versioned:
            self.objects[name][-1].resource["timeDeleted"] = now()
        else:
            self.objects.pop(name, None)

    def access(self, predefined: str | None) -> list[Json]:
        """The access list of a new object."""
        uniform = self.resource.get("iamConfiguration", {}).get("uniformBucketLevelAccess", {}).get("enabled")
        if uniform:
            if predefined:
                raise ApiError(
                    400, "Cannot use ACL API to update bucket policy when uniform bucket-level access is on."
                )
            return []
        owner = {"kind": "storage#objectAccessControl", "entity": "project-owners-1", "role": "OWNER"}
        public = {"kind": "storage#objectAccessControl", "entity": "allUsers", "role": "READER"}
        return [owner, public] if predefined == "publicRead" else [owner]


def check_conditions(
    found: StoredObject | None, query: Mapping[str, str], prefix: str = "", *, read: bool = False
) -> None:
    """The four preconditions `if<prefix>[Meta]Generation[Not]Match`; an object that is not there has generation 0."""
    present = {"Generation": found.generation if found else 0, "Metageneration": found.metageneration if found else 0}
    for what, is_now in present.items():
        if (wanted := query.get(f"if{prefix}{what}Match")) is not None and int(wanted) != is_now:
            raise ApiError(412, "At least one of the pre-conditions you specified did not hold.")
        if (unwanted := query.get(f"if{prefix}{what}NotMatch")) is not None and int(unwanted) == is_now:
            raise ApiError(304 if read else 412, "At least one of the pre-conditions you specified did not hold.")


def new_object(bucket: Bucket, name: str, data: bytes, given: Json, generation: int, acl: list[Json]) -> StoredObject:
    """An object as it stands after an upload. 400 for a bad name or checksum."""
    if not 1 <= len(name.encode()) <= 1024:
        raise ApiError(400, "The length of the object's name must be between 1 and 1024 bytes of UTF-8.")
    checksums = checksums_of(data)
    for key, value in checksums.items():
        if given.get(key) not in (None, value):
            raise ApiError(400, f"Provided {key} {given[key]!r} doesn't match calculated {key} {value!r}.")
    moment = now()
    resource: Json = {
        "kind": "storage#object",
        "id": f"{bucket.name}/{name}/{generation}",
        "bucket": bucket.name,
        "name": name,
        "generation": str(generation),
        "metageneration": "1",
        "size": str(len(data)),
        "contentType": "application/octet-stream",
        "storageClass": bucket.resource["storageClass"],
        "timeCreated": moment,
        "updated": moment,
        **checksums,
    }
    resource.update({key: given[key] for key in _WRITABLE & given.keys() if given[key] is not None})
    resource["etag"] = _etag(resource)
    return StoredObject(data, resource, acl)


def new_bucket(resource: Json) -> Bucket:
    """A bucket as it stands after it was made."""
    name = resource["name"]
    moment = now()
    return Bucket(
        {
            "kind": "storage#bucket",
            "id": name,
            "projectNumber": "1",
            "metageneration": "1",
            "location": "US",
            "storageClass": "STANDARD",
            "etag": "CAE=",
            "timeCreated": moment,
            "updated": moment,
            **resource,
        }
    )


def checksums_of(data: bytes) -> Json:
    """`md5Hash` and `crc32c` as the service writes them."""
    md5 = hashlib.md5(data, usedforsecurity=False).digest()
    crc = int(google_crc32c.value(data)).to_bytes(4, "big")
    return {"md5Hash": base64.b64encode(md5).decode(), "crc32c": base64.b64encode(crc).decode()}


def now() -> str:
    moment = datetime.fromtimestamp(time.time(), UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"


def _etag(resource: Json) -> str:
    return base64.b64encode(f"{resource['generation']}/{resource['metageneration']}".encode()).decode()
