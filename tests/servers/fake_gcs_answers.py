"""How the fake Google Cloud Storage understands requests and words its answers."""

from __future__ import annotations

import email.utils
import gzip
import itertools
import json
import re
import time
from collections.abc import Mapping

from werkzeug.wrappers import Request, Response

from tests.servers.fake_gcs_state import ApiError, Bucket, Json, StoredObject


def content_answer(stored: StoredObject, request: Request) -> Response:
    """The bytes, or the range of them that is asked for; gunzipped for those who do not accept gzip."""
    resource = stored.resource
    headers = {
        "X-Goog-Generation": resource["generation"],
        "X-Goog-Metageneration": resource["metageneration"],
        "X-Goog-Hash": f"crc32c={resource['crc32c']},md5={resource.get('md5Hash', '')}",
        "X-Goog-Stored-Content-Length": resource["size"],
        "ETag": resource["etag"],
        "Last-Modified": email.utils.formatdate(time.time(), usegmt=True),
        "Content-Type": resource["contentType"],
        "Content-Disposition": resource.get("contentDisposition", "inline"),
    }
    data, size = stored.data, len(stored.data)
    if resource.get("contentEncoding") == "gzip":
        if "gzip" not in request.headers.get("Accept-Encoding", ""):
            return Response(gzip.decompress(data), headers=headers)  # the service then ignores ranges
        headers["Content-Encoding"] = "gzip"
    wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", ""))
    if wanted is None or not any(wanted.groups()):
        return Response(data, headers=headers)
    start = int(wanted[1]) if wanted[1] else max(0, size - int(wanted[2]))
    end = min(int(wanted[2]), size - 1) if wanted[1] and wanted[2] else size - 1
    if start >= size or start > end:
        return Response("Requested range not satisfiable", status=416, headers={"Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{end}/{size}"
    return Response(data[start : end + 1], status=206, headers=headers)


def listing(bucket: Bucket, query: Mapping[str, str]) -> Json:
    """A page: items by the UTF-8 bytes of their names, and the prefixes up to the delimiter."""
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    start, end, after = query.get("startOffset", ""), query.get("endOffset", ""), query.get("pageToken", "")
    limit = min(int(query.get("maxResults") or 1000), 1000)
    items: list[Json] = []
    prefixes: list[str] = []
    for name in sorted(bucket.objects, key=str.encode):
        if not name.startswith(prefix) or name < start or (end and name >= end):
            continue
        cut = name.find(delimiter, len(prefix)) if delimiter else -1
        shown = name if cut < 0 else name[: cut + len(delimiter)]
        if (after and shown <= after) or (cut >= 0 and shown in prefixes):
            continue
        found = (
            bucket.objects[name]
            if query.get("versions", "").lower() == "true"
            else [o for o in [bucket.live(name)] if o]
        )
        if not found:
            continue
        if len(items) + len(prefixes) >= limit:
            last = max([*prefixes, *(item["name"] for item in items)], key=str.encode)
            return selected(
                {"kind": "storage#objects", "items": items, "prefixes": prefixes, "nextPageToken": last}, query
            )
        if cut >= 0:
            prefixes.append(shown)
        else:
            items += [o.resource for o in found]
    return selected({"kind": "storage#objects", "items": items, "prefixes": prefixes}, query)


def shown_object(stored: StoredObject, query: Mapping[str, str]) -> Json:
    return selected(stored.resource | ({"acl": stored.acl} if query.get("projection") == "full" else {}), query)


def selected(resource: Json, query: Mapping[str, str]) -> Json:
    """Only the fields that `fields=a,b,items(c,d)` names."""
    if "fields" not in query:
        return resource
    chosen: Json = {}
    for key, inner in re.findall(r"(\w+)(?:\(([^)]*)\))?", query["fields"]):
        if key in resource:
            names = inner.split(",")
            chosen[key] = [{k: i[k] for k in names if k in i} for i in resource[key]] if inner else resource[key]
    return chosen


def source_conditions(query: Mapping[str, str]) -> Json:
    found = {k: v for k, v in query.items() if k.startswith("ifSource")}
    return found | ({"generation": query["sourceGeneration"]} if "sourceGeneration" in query else {})


def two_parts(content_type: str, body: bytes) -> tuple[Json, bytes]:
    """The resource and the content of a multipart/related body."""
    delimiter = b"--" + boundary_of(content_type)
    _, head, rest = body.split(delimiter, 2)
    media = rest[: rest.rindex(b"\r\n" + delimiter + b"--")]
    part_head, _, data = media.partition(b"\r\n\r\n")
    resource = parsed(head.partition(b"\r\n\r\n")[2])
    kind = re.search(rb"content-type: *(\S+)", part_head, re.IGNORECASE)
    if kind:
        resource.setdefault("contentType", kind[1].decode())
    return resource, data


def boundary_of(content_type: str) -> bytes:
    found = re.search(r'boundary="?([^";]+)"?', content_type)
    if found is None:
        raise ApiError(400, "No boundary.")
    return found[1].encode()


def parsed(body: bytes) -> Json:
    try:
        return dict(json.loads(body)) if body.strip() else {}
    except ValueError:
        raise ApiError(400, "Parse Error") from None


def json_answer(value: Json, status: int = 200) -> Response:
    return Response(json.dumps(value), status=status, content_type="application/json; charset=UTF-8")


def canned_answer(fault: Json) -> Response:
    """What a fault with a "status", a "body" or an "endless" one answers."""
    status, kind = fault.get("status", 200), fault.get("type", "application/json; charset=UTF-8")
    if "endless" in fault:
        response = Response(itertools.repeat(fault["endless"].encode() * 1000), status=status, content_type=kind)
    elif "gzip" in fault:
        data = gzip.compress(fault["body"].encode() * fault["gzip"])
        response = Response(data, status=status, content_type=kind, headers={"Content-Encoding": "gzip"})
    elif "body" in fault:
        response = Response(fault["body"], status=status, content_type=kind)
    else:
        response = error_answer(ApiError(status, "A fault was asked for.", fault.get("reason", "")))
    response.headers.update(fault.get("headers", {}))
    return response


def error_answer(error: ApiError) -> Response:
    if error.status == 304:
        return Response(status=304)
    reasons = {400: "invalid", 403: "forbidden", 404: "notFound", 409: "conflict", 412: "conditionNotMet"}
    reason = error.reason or reasons.get(error.status, "backendError")
    detail = {"message": error.message, "domain": "global", "reason": reason}
    return json_answer({"error": {"code": error.status, "message": error.message, "errors": [detail]}}, error.status)
