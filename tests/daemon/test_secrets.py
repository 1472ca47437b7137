"""What no message may show."""

import json

import pytest

from depotfs.daemon.secrets import find_secrets
from depotfs.daemon.settings import Settings, StorageSettings

KEY = {"type": "service_account", "private_key": "-----BEGIN\nMIIEvQIBADANBg\n-----END", "client_email": "me@example"}


@pytest.mark.parametrize(
    ("options", "secrets"),
    [
        ({"access_key_id": "AKIAXXXXXXXX", "secret_access_key": "wJalrXUtnFEMI"}, {"wJalrXUtnFEMI"}),
        ({"mongouri": "mongodb://me:p%40ssword@host,other/files"}, {"p%40ssword", "p@ssword"}),
        ({"mongouri": "mongodb://host/files"}, set()),
        ({"credentials": "/etc/depotfs/key.json"}, set()),
        ({"credentials": KEY}, {"-----BEGIN", "MIIEvQIBADANBg", "-----END"}),
        ({"headers": [{"Api-Token": "abcdefgh"}, {"Accept": "everything"}]}, {"abcdefgh"}),
        ({"password": "short"}, set()),
        ({"secret": 1234567}, set()),
    ],
)
def test_they_are_known_by_their_keys_and_in_uris(options: dict[str, object], secrets: set[str]) -> None:
    assert find_secrets(Settings((StorageSettings("a", "own.Storage", options),), "a")) == secrets


def test_a_key_file_given_as_text_is_one_and_what_is_in_it_too() -> None:
    text = json.dumps(KEY)
    found = find_secrets(Settings((StorageSettings("a", "own.Storage", {"credentials": text}),), "a"))
    assert {text, "MIIEvQIBADANBg"} <= found
