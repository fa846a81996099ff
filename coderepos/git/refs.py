"""Which ref of an advertisement is wanted, and what to ask the server for to find it."""

from __future__ import annotations

from coderepos.exceptions import RemoteProtocolError
from coderepos.git.messages import OBJECT_ID, is_ref_name
from coderepos.git.record import Record

TYPE_CHECKING = False  # importing typing takes 7 ms, which every clone would wait for
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

HEAD: Final = b"HEAD"
HEADS: Final = b"refs/heads/"
TAGS: Final = b"refs/tags/"

SHA256: Final = "SHA-256 object ids are not supported"
"""Reason of the error for a repository with longer ids."""


class WantedRef(Record):
    """An advertised ref, or a commit by its id, that is to be fetched."""

    name: bytes
    """Full name, ``HEAD``, or empty for a commit by its id."""

    object_id: str


def ref_candidates(ref: str) -> list[bytes]:
    """Return the full names that ``ref`` may mean, the first one that exists wins: branches before tags.

    This is the order of ``git clone --branch``. Names that Git refuses are left out: they are nobody's.
    """
    if ref in ("", "HEAD"):
        return [HEAD]
    names = [ref] if ref.startswith("refs/") else [f"refs/heads/{ref}", f"refs/tags/{ref}"]
    return [name.encode("utf-8", "surrogateescape") for name in names if is_ref_name(name)]


def ref_prefixes(ref: str, *, with_tags: bool) -> list[bytes]:
    """Return what protocol v2 is asked to advertise: HEAD, the candidates and, where wanted, all tags."""
    names = [HEAD, *(name for name in ref_candidates(ref) if name != HEAD)]
    if not with_tags:
        return names
    return [*(name for name in names if not name.startswith(TAGS)), TAGS]


def wanted_ref(refs: Mapping[bytes, bytes], ref: str) -> WantedRef | None:
    """Return the ref that is meant, or ``None`` where the server advertises none of its candidates.

    :raises RemoteProtocolError: its id is not one of a SHA-1 repository.
    """
    for name in ref_candidates(ref):
        if name in refs:
            return WantedRef(name=name, object_id=object_id(refs[name]))
    return WantedRef(name=b"", object_id=ref) if OBJECT_ID.match(ref) else None


def object_id(advertised: bytes) -> str:
    """Return the checked id of an advertised ref.

    :raises RemoteProtocolError: it is not an id of a SHA-1 repository.
    """
    text = advertised.decode("latin-1")
    if OBJECT_ID.match(text):
        return text
    raise RemoteProtocolError(reason=SHA256 if len(text) == 64 else "object id")


def advertised_tags(refs: Mapping[bytes, bytes]) -> tuple[tuple[str, str], ...]:
    """Return names and ids of the tags whose names Git would accept; of an annotated tag the id of the tag object."""
    tags = ((ref_text(name), target) for name, target in refs.items() if name.startswith(TAGS))
    return tuple((name, object_id(target)) for name, target in tags if name)


def ref_text(name: bytes) -> str:
    """Return a ref name as text, empty where it is none that Git would accept."""
    text = name.decode("utf-8", "surrogateescape")
    return text if is_ref_name(text) else ""
