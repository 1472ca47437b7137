"""A Google Cloud Storage server of our own: the JSON API of buckets and objects, in memory, with faults on demand.

`python -m tests.servers.fake_gcs PORT` serves on loopback until it is killed. Everybody may do everything; a URL
without the API's path (public and signed ones) gives only objects that are public, or what the URL signs.

`POST /_control` sets it up (see `Control`), `GET /_control/log?bucket=…` tells the requests that touched a bucket.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from tests.servers.fake_gcs_answers import (
    boundary_of,
    canned_answer,
    content_answer,
    error_answer,
    json_answer,
    listing,
    parsed,
    selected,
    shown_object,
    source_conditions,
    two_parts,
)
from tests.servers.fake_gcs_state import (
    ApiError,
    Bucket,
    Json,
    StoredObject,
    check_conditions,
    new_bucket,
    new_object,
)

_PIECE = 256 << 10
"""Every piece of a resumable upload but the last must be a multiple of this."""


@dataclass
class Control:
    """How the server misbehaves.

    Attributes:
        faults: each with "times", with regular expressions for "method", "path" and "query", and with one of:
            "status" (an answer, with "headers" and a "reason"), "body" (text that is the answer, with a "status",
            "headers" and a "type"; "gzip" is how often it is said, compressed), "endless" (an answer, with a "status"
            and a piece of the body that never ends), "lose" (done, but never answered),
            "cut" (bytes of the body that arrive), "flip" (a byte of the body is changed, on its way in or out),
            "substitute" (a pattern in the answer and its replacement), "stall" (seconds before the answer),
            "drip" (seconds between its bytes).
        rewrite_step: bytes that one call of rewriteTo copies at most.
    """

    faults: list[Json] = field(default_factory=list)
    rewrite_step: int = 1 << 62


@dataclass
class Upload:
    """A resumable upload that has begun."""

    bucket: str
    query: Mapping[str, str]
    resource: Json
    data: bytearray = field(default_factory=bytearray)
    done: Json | None = None


class FakeGcs:
    """The WSGI application; one lock guards all that it keeps, bodies are received and sent outside of it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._control = Control()
        self._log: deque[Json] = deque(maxlen=100_000)
        self._buckets: dict[str, Bucket] = {}
        self._uploads: dict[str, Upload] = {}
        self._rewrites: dict[str, int] = {}
        self._generation = time.time_ns() // 1000

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        request = Request(environ)
        target = urlsplit(str(environ["REQUEST_URI"]))
        path = [unquote(part) for part in target.path.split("/")[1:]]
        body = request.get_data()
        if path[0] == "_control":
            return self._controlled(request, path, body)(environ, start_response)
        entry = {"method": request.method, "path": target.path, "query": target.query, "size": len(body)}
        with self._lock:
            self._log.append(entry | {"range": request.headers.get("Range", "")})
            fault = self._next_fault(request.method, target.path, target.query)
        if fault.get("stall"):
            threading.Event().wait(fault["stall"])
        if {"body", "endless", "status"} & fault.keys():
            response = canned_answer(fault)
            return response(environ, start_response)
        if fault.get("flip") and body:
            body = body[:-200] + bytes([body[-200] ^ 1]) + body[-199:]
        try:
            response = self._route(request, path, body)
        except ApiError as error:
            response = error_answer(error)
        self._spoil(response, fault, environ)
        return response(environ, start_response)

    def _spoil(self, response: Response, fault: Json, environ: Any) -> None:
        data = response.get_data()
        if fault.get("flip") and environ["REQUEST_METHOD"] == "GET":
            response.set_data(bytes([data[0] ^ 1]) + data[1:])
        if "substitute" in fault:
            pattern, text = fault["substitute"]
            response.set_data(re.sub(pattern.encode(), text.encode(), data))
        if "cut" in fault:
            response.response = _cut(data, fault["cut"], environ)
        if "drip" in fault:
            response.response = _dripped(data, fault["drip"])
        if fault.get("lose"):
            _hang_up(environ)

    def _controlled(self, request: Request, path: list[str], body: bytes) -> Response:
        with self._lock:
            if request.method == "POST":
                self._control = Control(**json.loads(body))
                return json_answer({})
            bucket = request.args["bucket"]
            if path[1:] == ["uploads"]:
                return json_answer({"open": sum(u.done is None for u in self._uploads.values() if u.bucket == bucket)})
            needle = re.compile(rf"/{re.escape(bucket)}(/|$)")
            return json_answer({"requests": [entry for entry in self._log if needle.search(entry["path"])]})

    def _next_fault(self, method: str, path: str, query: str) -> Json:
        asked = {"method": method, "path": path, "query": query}
        for fault in self._control.faults:
            if fault["times"] > 0 and all(re.search(fault.get(key, ""), value) for key, value in asked.items()):
                fault["times"] -= 1
                return fault
        return {}

    # --- which request it is ---------------------------------------------------------------------------------

    def _route(self, request: Request, path: list[str], body: bytes) -> Response:
        match path[1:] if path[0] == "download" else path:
            case ["token"]:
                return json_answer({"access_token": "t", "expires_in": 3600, "token_type": "Bearer"})
            case ["batch", "storage", "v1"]:
                return self._batch(request, body)
            case ["upload", "storage", "v1", "b", bucket, "o"]:
                return self._upload(request, bucket, body)
            case ["resumable", "upload", "storage", "v1", "b", bucket, "o"]:
                return self._upload(request, bucket, body)
            case ["storage", "v1", "b"]:
                return self._all_buckets(request, body)
            case ["storage", "v1", "b", bucket, "o", name] if request.method == "GET":
                return self._read_object(request, bucket, name)
            case ["storage", "v1", "b", bucket, *rest]:
                with self._lock:
                    return self._locked_route(request, bucket, rest, parsed(body))
            case [bucket, *name] if request.method in ("GET", "HEAD") and name:
                return self._plain_url(request, bucket, "/".join(name))
        raise ApiError(404, "Not Found")

    def _locked_route(self, request: Request, bucket: str, rest: list[str], body: Json) -> Response:
        query = request.args
        match request.method, rest:
            case _, []:
                return self._one_bucket(request.method, bucket, body)
            case "GET", ["iam", "testPermissions"]:
                return json_answer({"permissions": query.getlist("permissions")})
            case method, ["iam"]:
                found = self._bucket(bucket)
                found.policy = {**body, "etag": "CAI="} if method == "PUT" else found.policy
                return json_answer(found.policy)
            case "GET", ["o"]:
                return json_answer(listing(self._bucket(bucket), query))
            case "PATCH", ["o", name]:
                stored = self._bucket(bucket).find(name, query)
                stored.patch(body)
                return json_answer(shown_object(stored, query))
            case "DELETE", ["o", name]:
                return self._delete_object(bucket, name, query)
            case "GET", ["o", name, "acl"]:
                return json_answer(
                    {"kind": "storage#objectAccessControls", "items": self._bucket(bucket).find(name, {}).acl}
                )
            case "POST", ["o", name, "rewriteTo", "b", target, "o", new_name]:
                stored = self._bucket(bucket).find(name, source_conditions(query), "Source")
                return self._rewrite(stored, target, new_name, query, body)
            case "POST", ["o", name, "copyTo", "b", target, "o", new_name]:
                stored = self._bucket(bucket).find(name, source_conditions(query), "Source")
                return json_answer(self._store(target, new_name, stored.data, body or stored.resource, query))
            case "POST", ["o", name, "compose"]:
                parts = [self._part(bucket, source) for source in body["sourceObjects"]]
                given = {"contentType": parts[0].resource["contentType"], **body.get("destination", {})}
                resource = self._store(bucket, name, b"".join(part.data for part in parts), given, query)
                resource["componentCount"] = len(parts)
                del resource["md5Hash"]
                return json_answer(resource)
        raise ApiError(404, "Not Found")

    # --- buckets ---------------------------------------------------------------------------------------------

    def _bucket(self, name: str) -> Bucket:
        if name not in self._buckets:
            raise ApiError(404, "The specified bucket does not exist.")
        return self._buckets[name]

    def _all_buckets(self, request: Request, body: bytes) -> Response:
        with self._lock:
            if request.method == "GET":
                return json_answer({"kind": "storage#buckets", "items": [b.resource for b in self._buckets.values()]})
            resource = parsed(body)
            if resource["name"] in self._buckets:
                raise ApiError(
                    409, "Your previous request to create the named bucket succeeded and you already own it."
                )
            self._buckets[resource["name"]] = new_bucket(resource)
            return json_answer(self._buckets[resource["name"]].resource)

    def _one_bucket(self, method: str, name: str, body: Json) -> Response:
        bucket = self._bucket(name)
        if method == "DELETE":
            if bucket.objects:
                raise ApiError(409, "The bucket you tried to delete is not empty.")
            del self._buckets[name]
            return Response(status=204)
        if method == "PATCH":
            bucket.resource.update(body)
        return json_answer(bucket.resource)

    # --- objects ---------------------------------------------------------------------------------------------

    def _read_object(self, request: Request, bucket: str, name: str) -> Response:
        query = request.args
        with self._lock:
            stored = self._bucket(bucket).find(name, {k: v for k, v in query.items() if k == "generation"})
            check_conditions(stored, query, read=True)
            if query.get("alt") != "media":
                return json_answer(shown_object(stored, query))
        return content_answer(stored, request)

    def _plain_url(self, request: Request, bucket: str, name: str) -> Response:
        with self._lock:
            stored = self._bucket(bucket).find(name, {})
        begun = request.args.get("X-Goog-Date")
        if begun and request.args.get("X-Goog-Signature"):
            signed_at = time.mktime(time.strptime(begun, "%Y%m%dT%H%M%SZ")) - time.timezone
            if time.time() > signed_at + int(request.args["X-Goog-Expires"]):
                raise ApiError(400, "The provided token has expired.")
        elif not stored.public:
            raise ApiError(403, f"Anonymous caller does not have storage.objects.get access to {bucket}/{name}.")
        return content_answer(stored, request)

    def _delete_object(self, bucket: str, name: str, query: Mapping[str, str]) -> Response:
        holder = self._bucket(bucket)
        stored = holder.find(name, query)
        if stored is holder.live(name) and "generation" not in query:
            holder.retire(name)
        else:
            holder.objects[name].remove(stored)
            if not holder.objects[name]:
                del holder.objects[name]
        return Response(status=204)

    def _store(self, bucket: str, name: str, data: bytes, given: Json, query: Mapping[str, str]) -> Json:
        with self._lock:
            holder = self._bucket(bucket)
            live = holder.live(name)
            check_conditions(live, query)
            self._generation += 1
            acl = holder.access(query.get("predefinedAcl") or query.get("destinationPredefinedAcl"))
            stored = new_object(holder, name, data, given, self._generation, acl)
            if live is not None:
                holder.retire(name)
            holder.objects.setdefault(name, []).append(stored)
            return stored.resource

    def _part(self, bucket: str, source: Json) -> StoredObject:
        query = {k: str(v) for k, v in source.get("objectPreconditions", {}).items() if v is not None}
        if source.get("generation") is not None:
            query["generation"] = str(source["generation"])
        return self._bucket(bucket).find(source["name"], query)

    def _rewrite(self, source: StoredObject, bucket: str, name: str, query: Mapping[str, str], body: Json) -> Response:
        size = len(source.data)
        token = query.get("rewriteToken", "")
        if token and token not in self._rewrites:
            raise ApiError(400, "Invalid rewrite token.")
        done = min(size, self._rewrites.pop(token, 0) + self._control.rewrite_step)
        answer: Json = {"kind": "storage#rewriteResponse", "totalBytesRewritten": str(done), "objectSize": str(size)}
        if done < size:
            check_conditions(self._bucket(bucket).live(name), query)
            token = uuid.uuid4().hex
            self._rewrites[token] = done
            return json_answer(answer | {"done": False, "rewriteToken": token})
        given = body or {k: v for k, v in source.resource.items() if k != "storageClass"}
        return json_answer(answer | {"done": True, "resource": self._store(bucket, name, source.data, given, query)})

    # --- uploads ---------------------------------------------------------------------------------------------

    def _upload(self, request: Request, bucket: str, body: bytes) -> Response:
        query = request.args
        if "upload_id" in query:
            with self._lock:
                return self._continue(request, query["upload_id"], body)
        if query["uploadType"] == "multipart":
            resource, body = two_parts(request.headers["Content-Type"], body)
        elif query["uploadType"] == "media":
            resource = {"name": query["name"], "contentType": request.headers.get("Content-Type")}
        else:
            return self._begin(request, bucket, parsed(body))
        name = resource.get("name") or query["name"]
        return json_answer(selected(self._store(bucket, name, body, resource, query), query))

    def _begin(self, request: Request, bucket: str, resource: Json) -> Response:
        with self._lock:
            resource.setdefault("name", request.args.get("name", ""))
            resource.setdefault("contentType", request.headers.get("X-Upload-Content-Type"))
            check_conditions(self._bucket(bucket).live(resource["name"]), request.args)
            upload_id = uuid.uuid4().hex
            self._uploads[upload_id] = Upload(bucket, request.args, resource)
        location = f"{request.host_url}upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={upload_id}"
        return Response(status=200, headers={"Location": location, "X-GUploader-UploadID": upload_id})

    def _continue(self, request: Request, upload_id: str, body: bytes) -> Response:
        upload = self._uploads.get(upload_id)
        if upload is None:
            raise ApiError(404, "No such upload.")
        if request.method == "DELETE":
            del self._uploads[upload_id]
            return Response(status=499)
        if upload.done is not None:
            return json_answer(upload.done)
        total = self._receive(
            upload, request.headers.get("Content-Range", f"bytes 0-{len(body) - 1}/{len(body)}"), body
        )
        if total != len(upload.data):
            received = {"Range": f"bytes=0-{len(upload.data) - 1}"} if upload.data else {}
            return Response(status=308, headers=received)
        data = bytes(upload.data)
        hashes = [part.strip().split("=", 1) for part in request.headers.get("X-Goog-Hash", "").split(",") if part]
        named = {{"md5": "md5Hash"}.get(key, key): value for key, value in hashes}
        try:
            stored = self._store(upload.bucket, upload.resource["name"], data, upload.resource | named, upload.query)
        except ApiError:
            del self._uploads[upload_id]
            raise
        upload.done, upload.data = selected(stored, upload.query), bytearray()
        return json_answer(upload.done)

    def _receive(self, upload: Upload, content_range: str, body: bytes) -> int | None:
        """Takes a piece; the size in all where it is told."""
        match = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", content_range)
        if match is None:
            raise ApiError(400, "Invalid Content-Range.")
        start, end, total = match[1], match[2], None if match[3] == "*" else int(match[3])
        if start is not None:
            if int(end) - int(start) + 1 != len(body) or int(start) > len(upload.data):
                raise ApiError(400, "The piece does not fit its Content-Range.")
            upload.data += body[len(upload.data) - int(start) :]
            if total != len(upload.data):
                del upload.data[len(upload.data) // _PIECE * _PIECE :]  # the service keeps whole units only
        return total

    def _batch(self, request: Request, body: bytes) -> Response:
        answers = []
        for part in body.split(b"--" + boundary_of(request.headers["Content-Type"]))[1:-1]:
            _, inner = re.split(rb"\r?\n\r?\n", part, maxsplit=1)
            request_line, *_ = inner.decode().splitlines()
            method, target, _ = request_line.split()
            url = urlsplit(target)
            inside = Request.from_values(url.path, method=method, query_string=dict(parse_qsl(url.query)))
            payload = re.split(rb"\r?\n\r?\n", inner, maxsplit=1)[-1].strip()
            try:
                answer = self._route(inside, [unquote(p) for p in url.path.split("/")[1:]], payload)
            except ApiError as error:
                answer = error_answer(error)
            text = answer.get_data(as_text=True)
            http = f"HTTP/1.1 {answer.status}\r\nContent-Type: application/json\r\n\r\n{text}\r\n"
            answers.append(f"--b\r\nContent-Type: application/http\r\n\r\n{http}")
        return Response("".join(answers) + "--b--\r\n", content_type="multipart/mixed; boundary=b")


def _hang_up(environ: Any) -> None:
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)


def _cut(data: bytes, length: int, environ: Any) -> Iterator[bytes]:
    yield data[:length]
    _hang_up(environ)


def _dripped(data: bytes, seconds: float) -> Iterator[bytes]:
    for number in data:
        yield bytes([number])
        threading.Event().wait(seconds)


class _Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # so that connections are kept
    disable_nagle_algorithm = True

    def log(self, type: str, message: str, *args: Any) -> None:
        """Every request is in the log that /_control gives."""

    def connection_dropped(self, error: BaseException, environ: Any = None) -> None:
        self.close_connection = True


def main() -> None:
    make_server("127.0.0.1", int(sys.argv[1]), FakeGcs(), threaded=True, request_handler=_Handler).serve_forever()


if __name__ == "__main__":
    main()
