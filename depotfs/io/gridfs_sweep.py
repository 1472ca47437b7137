"""Orphans in GridFS: chunks that no files document names, left by what was killed half way."""

from __future__ import annotations

import time
from collections.abc import Hashable
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

from bson import ObjectId

from depotfs.io.gridfs_connection import Collections
from depotfs.io.gridfs_documents import OWN, Document, FilesDocument
from depotfs.io.gridfs_swap import finish

_GROUPS: Final = 1000
"""Groups of chunks whose files documents are looked up with one query."""


def sweep(collections: Collections, older_than: float) -> int:
    """Orphans that were inserted more than `older_than` seconds ago are deleted; returns how many chunks.

    What a file owns is left alone, or brought to its place.
    """
    # A chunk's own _id tells when it was made, to the second.
    newest = ObjectId.from_datetime(datetime.fromtimestamp(time.time() - older_than + 1, UTC))
    stages: list[Document] = [
        {"$match": {"_id": {"$lt": newest}}},
        {"$group": {"_id": {"place": "$files_id", "upload": f"${OWN}"}}},
    ]
    groups = collections.chunks.aggregate(stages, allowDiskUse=True)
    deleted = 0
    while page := [group["_id"] for group in islice(groups, _GROUPS)]:
        owned = _owned(collections, page)
        for group in page:
            where = {"files_id": group.get("place"), OWN: group.get("upload")}
            if (_hashable(where["files_id"]), _hashable(where[OWN])) not in owned:
                deleted += collections.chunks.delete_many({**where, "_id": {"$lt": newest}}).deleted_count
    return deleted


def _owned(collections: Collections, groups: list[Document]) -> set[tuple[Any, Any]]:
    """(files_id, stamp) of those of the chunks that a files document calls its own."""
    at_key = [group.get("place") for group in groups]
    staged = [place for place in at_key if isinstance(place, ObjectId) and {"place": place, "upload": place} in groups]
    found = [FilesDocument(raw) for raw in collections.deciding.find({"_id": {"$in": at_key}})]
    if staged:  # no index helps with these, but there are few
        for raw in collections.deciding.find({f"{OWN}.upload": {"$in": staged}}):
            finish(collections, FilesDocument(raw))  # also chunks that lost their way home
            found.append(FilesDocument(raw))
    at_home = {(_hashable(document.key), document.upload) for document in found}
    return at_home | {(document.upload, document.upload) for document in found if document.upload is not None}


def _hashable(value: Any) -> Any:
    return value if isinstance(value, Hashable) else repr(value)
