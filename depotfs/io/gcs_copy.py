"""A copy that Google Cloud Storage makes, in as many requests as it wants."""

from __future__ import annotations

from collections.abc import Mapping

from depotfs.errors import StorageUnavailable
from depotfs.io.gcs_answers import Answer, Json
from depotfs.io.gcs_objects import whole_number
from depotfs.io.gcs_requests import GcsRequests


def rewritten(requests: GcsRequests, what: str, path: str, params: Mapping[str, str], resource: Json) -> Answer:
    """The answer to the request that completed the copy, or a refusal.

    Raises:
        StorageUnavailable: the server copies no further, or has forgotten where it was.
    """
    token, copied, standstills = "", 0, 0
    while True:  # the service copies as much as it can within one request, and says where it stands
        asked = {**params, "rewriteToken": token} if token else params
        answer = requests.send(what, "POST", path, params=asked, body=resource)
        if token and answer.status in (400, 410):
            raise StorageUnavailable(f"{what}: the server has forgotten the copy half-way")
        following = answer.json().get("rewriteToken") if answer.ok else None
        if not following:
            return answer
        if not isinstance(following, str):
            raise StorageUnavailable(f"{what}: the server does not say how to go on")
        token = following
        before, copied = copied, whole_number(answer.json().get("totalBytesRewritten")) or 0
        standstills = 0 if copied > before else standstills + 1
        if not standstills:
            requests.patience.progressed()
        else:
            requests.pause(standstills, StorageUnavailable(f"{what}: the server copies no further"))
