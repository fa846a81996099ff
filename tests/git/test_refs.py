from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderepos.exceptions import RemoteProtocolError, TooManyRefs
from coderepos.git.limits import Limits
from coderepos.git.refs import SHOWN_NAMES, RefListing, advertised_tags, object_id, ref_candidates, ref_text
from tests.support.servers.hostile import ID

OTHER = "2" * 40


def listing(ref: str, branches: Mapping[str, str] | None = None, *, with_tags: bool = False) -> RefListing:
    """Return a listing that has seen these branches."""
    made = RefListing(ref, Limits(), with_tags=with_tags)
    for name, target in (branches or {}).items():
        made.add(f"refs/heads/{name}".encode(), target.encode())
    return made


@pytest.mark.parametrize(
    ("ref", "candidates"),
    [
        ("", [b"HEAD"]),
        ("HEAD", [b"HEAD"]),
        ("main", [b"refs/heads/main", b"refs/tags/main"]),
        ("refs/pull/1/head", [b"refs/pull/1/head"]),
        ("refs/stash", [b"refs/stash"]),
        ("a/b", [b"refs/heads/a/b", b"refs/tags/a/b", b"refs/a/b"]),
        ("heads/main", [b"refs/heads/heads/main", b"refs/tags/heads/main", b"refs/heads/main"]),
        ("a b", []),
        ("a\nwant x", []),
        ("refs/", []),
        ("..", []),
        ("\ud800", []),
        ("a" * 4_100, []),
        (ID, []),
        ("aB" * 20, []),
        ("a" * 64, [b"refs/heads/" + b"a" * 64, b"refs/tags/" + b"a" * 64]),
        ("é", ["refs/heads/é".encode(), "refs/tags/é".encode()]),
        ("\udcff", [b"refs/heads/\xff", b"refs/tags/\xff"]),
    ],
)
def test_candidates(ref: str, candidates: list[bytes]) -> None:
    """A short name is a branch, then a tag, then what follows ``refs/``; a full name is itself."""
    assert ref_candidates(ref) == candidates


def test_prefixes() -> None:
    """Without tags only the candidates are asked for; with them one prefix covers the tag as well."""
    assert listing("").prefixes == [b"HEAD"]
    assert listing("x").prefixes == [b"HEAD", b"refs/heads/x", b"refs/tags/x"]
    assert listing("x", with_tags=True).prefixes == [b"HEAD", b"refs/heads/x", b"refs/tags/"]
    assert listing(ID).prefixes == [b"HEAD"]


@pytest.mark.parametrize("ref", ["ab" * 20, "AB" * 20, "aB" * 20])
def test_id_goes_before_name(ref: str) -> None:
    """Forty hex digits are a commit, in either case of their letters, whatever branches and tags are called so."""
    found = listing(ref, {ref: OTHER, ref.lower(): OTHER}).wanted()

    assert found is not None
    assert (found.name, found.object_id) == (b"", "ab" * 20)
    full = listing(f"refs/heads/{ref}", {ref: OTHER}).wanted()
    assert full is not None
    assert full.object_id == OTHER


@pytest.mark.parametrize("ref", ["", "x", ID[:-1], ID + "1"])
def test_nothing_wanted(ref: str) -> None:
    """What is not listed and no full id cannot be wanted."""
    assert listing(ref, {"y": ID}).wanted() is None


def test_only_what_may_be_wanted_is_kept() -> None:
    """However many refs there are, the candidates, the tags that are wanted, and a few names are all that stays."""
    refs = RefListing("x", Limits(refs=3), with_tags=True)
    for number in range(1_000):
        refs.add(b"refs/heads/%d" % number, ID.encode())
        refs.add(b"refs/tags/%d" % number, ID.encode())
        refs.add(b"refs/pull/%d/head" % number, ID.encode())
    refs.add(b"refs/tags/x", OTHER.encode())

    assert refs.wanted() is not None
    assert (len(refs.tags), refs.skipped_tags) == (3, 998)
    assert [len(names) for names in refs.shown.values()] == [SHOWN_NAMES] * 3


def test_number_of_listed_refs() -> None:
    """One ref too many ends a listing."""
    refs = RefListing("x", Limits(listed_refs=2), with_tags=False)
    for _ in range(2):
        refs.add(b"refs/heads/a", ID.encode())
    with pytest.raises(TooManyRefs):
        refs.add(b"refs/heads/a", ID.encode())


@pytest.mark.parametrize("advertised", [b"", b"1" * 39, b"1" * 41, b"A" * 40, b"1" * 64, b"\xff" * 40])
def test_object_id(advertised: bytes) -> None:
    """Only lower-case SHA-1 ids pass."""
    with pytest.raises(RemoteProtocolError):
        object_id(advertised)


def test_tags_with_bad_names_are_left_out() -> None:
    """Names that Git refuses never travel on."""
    tags = {b"refs/tags/a": ID.encode(), b"refs/tags/..": ID.encode(), b"refs/tags/\xff": ID.encode()}

    assert advertised_tags(tags) == (("refs/tags/a", ID), ("refs/tags/\udcff", ID))


ALPHABET = [*(bytes([byte]) for byte in range(1, 256)), *[b"."] * 60, *[b"/"] * 60, b".lock", b".lock/", b"@{", b"@"]


def git_takes(name: bytes) -> bool:
    """Return whether this is a full ref name to the real Git."""
    done = subprocess.run([b"git", b"check-ref-format", name], env={"PATH": os.environ["PATH"]}, check=False)
    return done.returncode == 0


def odd_names() -> list[bytes]:
    """Return names made of what the rules are about, the same ones every time."""
    source = random.Random(7)
    names = {b"refs/" + b"".join(source.choices(ALPHABET, k=source.randint(0, 6))) for _ in range(2_500)}
    plain = (b"refs/a./b", b"refs/a.", b"refs/@", b"refs/a.lock.b", b"refs/a.LOCK", b"refs/x", b"refs/heads/-a")
    return sorted(names | {*plain, *(b"refs/a%cb" % byte for byte in range(1, 256))})


def test_names_are_those_of_git() -> None:
    """Every name is valid here exactly where ``git check-ref-format`` takes it, bytes that are no UTF-8 included."""
    names = odd_names()
    with ThreadPoolExecutor(4) as threads:
        taken = list(threads.map(git_takes, names))

    assert 200 < sum(taken) < len(names) - 200
    assert [name for name, is_taken in zip(names, taken, strict=True) if bool(ref_text(name)) != is_taken] == []


@given(name=st.binary(max_size=30))
def test_a_lawful_name_survives_as_text(name: bytes) -> None:
    """Bytes to text and back is the same name."""
    text = ref_text(b"refs/" + name)

    assert not text or text.encode("utf-8", "surrogateescape") == b"refs/" + name
