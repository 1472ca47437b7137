"""What names mean: the contract's chapter "Names"."""

from __future__ import annotations

import pytest

from depotfs.errors import NameNotUnicode, NameTooLong
from depotfs.io.ids import IdForm
from depotfs.vfs.names import Kind, NameRules, derive

SCRATCH = (".*", "*~", "4913")
UUIDS = NameRules(IdForm.UUID, SCRATCH)
OBJECT_IDS = NameRules(IdForm.OBJECT_ID, SCRATCH)


@pytest.mark.parametrize(
    ("name", "as_uuid", "as_object_id"),
    [
        ("photo.jpg", "590f20fd-d941-5e6d-b65e-8496d7f4da20", "590f20fdd9415e6db65e8496"),
        ("Привет-мир-🎉.txt", "7bc271dc-6a12-5a52-981c-d7a3abd00147", "7bc271dc6a125a52981cd7a3"),
    ],
)
def test_plain_name_stands_for_the_ids_of_the_contract(name: str, as_uuid: str, as_object_id: str) -> None:
    assert UUIDS.parse(name.encode()).ids == (as_uuid, as_object_id)
    assert OBJECT_IDS.parse(name.encode()).ids == (as_object_id, as_uuid)


def test_names_are_not_normalised() -> None:
    composed, decomposed = "\u00e9.txt", "e\u0301.txt"
    assert derive(composed, IdForm.UUID) != derive(decomposed, IdForm.UUID)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("590f20fd-d941-5e6d-b65e-8496d7f4da20", Kind.ID),
        ("590f20fdd9415e6db65e8496", Kind.ID),
        ("590F20FD-d941-5e6d-b65e-8496d7f4da20", Kind.OTHER_SPELLING),
        ("590F20FDD9415E6DB65E8496", Kind.OTHER_SPELLING),
        ("{590f20fd-d941-5e6d-b65e-8496d7f4da20}", Kind.OTHER_SPELLING),
        ("urn:uuid:590f20fd-d941-5e6d-b65e-8496d7f4da20", Kind.OTHER_SPELLING),
        ("d41d8cd98f00b204e9800998ecf8427e", Kind.PLAIN),  # 32 bare hex digits: an MD5
        ("photo.jpg", Kind.PLAIN),
        (".photo.jpg.Xy12ab", Kind.SCRATCH),
        ("photo.jpg~", Kind.SCRATCH),
        ("4913", Kind.SCRATCH),
        ("49130", Kind.PLAIN),
    ],
)
def test_kind(name: str, kind: Kind) -> None:
    assert UUIDS.parse(name.encode()).kind is kind


def test_another_spelling_leads_to_no_file() -> None:
    assert UUIDS.parse(b"590F20FD-D941-5E6D-B65E-8496D7F4DA20").ids == ()


def test_scratch_patterns_are_configurable() -> None:
    rules = NameRules(IdForm.UUID, ("*.part",))
    assert rules.parse(b"film.part").kind is Kind.SCRATCH
    assert rules.parse(b".hidden").kind is Kind.PLAIN


def test_free_ids_are_tried_as_they_are_last() -> None:
    rules = NameRules(IdForm.UUID, SCRATCH, free_ids=True)
    assert rules.parse(b"photo.jpg").ids[-1] == "photo.jpg"
    assert rules.parse(b"photo.jpg").ids[0] == "590f20fd-d941-5e6d-b65e-8496d7f4da20"


def test_names_that_are_refused() -> None:
    assert UUIDS.parse(b"x" * 255).kind is Kind.PLAIN
    with pytest.raises(NameTooLong):
        UUIDS.parse(b"x" * 256)
    with pytest.raises(NameNotUnicode):
        UUIDS.parse(b"\xff.txt")
