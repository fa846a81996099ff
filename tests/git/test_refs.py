from __future__ import annotations

import pytest

from coderepos.exceptions import RemoteProtocolError
from coderepos.git.refs import advertised_tags, object_id, ref_candidates, ref_prefixes, wanted_ref
from tests.git.hostile_server import ID

OTHER = "2" * 40


@pytest.mark.parametrize(
    ("ref", "candidates"),
    [
        ("", [b"HEAD"]),
        ("HEAD", [b"HEAD"]),
        ("main", [b"refs/heads/main", b"refs/tags/main"]),
        ("refs/pull/1/head", [b"refs/pull/1/head"]),
        ("a/b", [b"refs/heads/a/b", b"refs/tags/a/b"]),
        ("a b", []),
        ("a\nwant x", []),
        ("refs/", []),
        ("..", []),
        ("\ud800", []),
        ("é", ["refs/heads/é".encode(), "refs/tags/é".encode()]),
    ],
)
def test_candidates(ref: str, candidates: list[bytes]) -> None:
    """A short name is a branch, then a tag; a full name is itself."""
    assert ref_candidates(ref) == candidates


def test_prefixes() -> None:
    """Without tags only the candidates are asked for; with them one prefix covers the tag as well."""
    assert ref_prefixes("", with_tags=False) == [b"HEAD"]
    assert ref_prefixes("x", with_tags=False) == [b"HEAD", b"refs/heads/x", b"refs/tags/x"]
    assert ref_prefixes("x", with_tags=True) == [b"HEAD", b"refs/heads/x", b"refs/tags/"]


def test_name_goes_before_id() -> None:
    """Forty hex digits are a commit only where no branch has that name."""
    named = {b"refs/heads/" + ID.encode(): OTHER.encode()}

    found, by_id = wanted_ref(named, ID), wanted_ref({}, ID)

    assert found is not None
    assert (found.name, found.object_id) == (b"refs/heads/" + ID.encode(), OTHER)
    assert by_id is not None
    assert (by_id.name, by_id.object_id) == (b"", ID)


@pytest.mark.parametrize("ref", ["", "x", ID[:-1], ID + "1", "A" * 40])
def test_nothing_wanted(ref: str) -> None:
    """What is not advertised and no full lower-case id cannot be wanted."""
    assert wanted_ref({}, ref) is None


@pytest.mark.parametrize("advertised", [b"", b"1" * 39, b"1" * 41, b"A" * 40, b"1" * 64, b"\xff" * 40])
def test_object_id(advertised: bytes) -> None:
    """Only lower-case SHA-1 ids pass."""
    with pytest.raises(RemoteProtocolError):
        object_id(advertised)


def test_tags_with_bad_names_are_left_out() -> None:
    """Names that Git refuses never travel on."""
    refs = {b"refs/tags/a": ID.encode(), b"refs/tags/..": ID.encode(), b"refs/tags/\xff": ID.encode(), b"HEAD": b"x"}

    assert advertised_tags(refs) == (("refs/tags/a", ID), ("refs/tags/\udcff", ID))
