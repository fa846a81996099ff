"""Which ref is wanted, what to ask the server for to find it, and what of a listing is worth keeping."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from coderepos.exceptions import RemoteProtocolError, TooManyRefs
from coderepos.git.limits import Limits
from coderepos.git.ref_names import is_ref_name
from coderepos.git.wire import OBJECT_ID

HEAD: Final = b"HEAD"
HEADS: Final = b"refs/heads/"
TAGS: Final = b"refs/tags/"

SHA256: Final = "SHA-256 object ids are not supported"
"""Reason of the error for a repository with longer ids."""

SHOWN_NAMES: Final = 10
"""Names of each kind that are kept to tell users what they could ask for."""

TAG_BYTES: Final = 4 * 10**6
"""Most bytes that the names and ids of all tags may take in a message."""

DEFAULT_BRANCH: Final = b"refs/heads/master"
"""What Git takes for the default branch where nobody has set ``init.defaultBranch``."""

_FULL_ID: Final = re.compile(r"[0-9a-fA-F]{40}\Z")
_SHORT_ID: Final = re.compile(r"[0-9a-fA-F]{4,39}\Z")
_TAG_OVERHEAD_BYTES: Final = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class WantedRef:
    """An advertised ref, or a commit by its id, that is to be fetched."""

    name: bytes
    """Full name, ``HEAD``, or empty for a commit by its id."""

    object_id: str


def commit_id(ref: str) -> str:
    """Return the commit id that ``ref`` is, in lower case; empty where it is a name.

    Forty hex digits are an id to every command of Git, whatever branches and tags there are.
    """
    return ref.lower() if _FULL_ID.match(ref) else ""


def is_short_id(ref: str) -> bool:
    """Return whether ``ref`` looks like an abbreviated commit id, which no server looks up."""
    return bool(_SHORT_ID.match(ref))


def ref_candidates(ref: str) -> list[bytes]:
    """Return the full names that ``ref`` may mean, the first one that exists wins: branches before tags.

    This is the order of ``git clone --branch``; names such as ``tags/v1``, ``heads/main`` and ``pull/1/head`` are
    understood as ``git rev-parse`` does. Names that Git refuses are left out: they are nobody's.
    """
    if ref in ("", "HEAD"):
        return [HEAD]
    if commit_id(ref):
        return []
    names = [f"refs/heads/{ref}", f"refs/tags/{ref}"]
    if ref.startswith("refs/"):
        names = [ref]
    elif "/" in ref:
        names.append(f"refs/{ref}")
    return [name.encode("utf-8", "surrogateescape") for name in names if is_ref_name(name)]


class RefListing:
    """What is of use among the refs of a server, while they arrive: however many there are, little is kept.

    :param ref: branch, tag, full ref name or full commit id, as the user gave it; empty for the default branch.
    :param with_tags: keep the tags too.
    """

    def __init__(self, ref: str, limits: Limits, *, with_tags: bool) -> None:
        self.head_target = b""
        """Full name of the branch that HEAD points to; empty where it is detached or unknown."""
        self.tags: Final[dict[bytes, bytes]] = {}
        """Ids by full name; ids of annotated tags are those of the tag objects."""
        self.skipped_tags = 0
        """Tags that were one too many to be kept."""
        self.shown: Final[dict[bytes, list[bytes]]] = {HEADS: [], TAGS: [], b"refs/": []}
        """The first names of branches, tags and other refs."""
        self.guessed_branch = b""
        """Branch that ``git clone`` takes for HEAD's where none is told: ``guess_remote_head`` of Git.

        That is ``master``, or the first branch with the id of HEAD.
        """
        self.has_commit = False
        """Whether the commit that is wanted by its id is the target of some ref."""
        self._commit_id: Final = commit_id(ref).encode()
        self._candidates: Final = ref_candidates(ref)
        self._kept_names: Final = {HEAD, *self._candidates, DEFAULT_BRANCH}
        self._ids: Final[dict[bytes, bytes]] = {}
        self._with_tags = with_tags
        self._limits: Final = limits
        self._number = 0
        self._tag_bytes = 0

    @property
    def prefixes(self) -> list[bytes]:
        """What protocol v2 is asked to list: HEAD, the candidates and, where they are kept, all tags."""
        names = [HEAD, *(name for name in self._candidates if name != HEAD)]
        if not self._with_tags:
            return names
        return [*(name for name in names if not name.startswith(TAGS)), TAGS]

    def add(self, name: bytes, object_id: bytes) -> None:
        """Take the next ref.

        :raises TooManyRefs: it is one too many.
        """
        self._number += 1
        if self._number > self._limits.listed_refs:
            raise TooManyRefs(figure=self._number, limit=self._limits.listed_refs)
        self.has_commit |= object_id == self._commit_id
        if name in self._kept_names:
            self._ids[name] = object_id
        if name == HEAD:
            return
        kind = HEADS if name.startswith(HEADS) else TAGS if name.startswith(TAGS) else b"refs/"
        shown = self.shown[kind]
        if len(shown) < SHOWN_NAMES and name not in shown:
            shown.append(name)
        if kind == HEADS:
            self._guess(name, object_id)
        elif kind == TAGS and self._with_tags:
            self._keep_tag(name, object_id)

    def add_peeled(self, object_id: bytes) -> None:
        """Take note of what an annotated tag names."""
        self.has_commit |= object_id == self._commit_id

    def without_tags(self) -> None:
        """Keep no more tags: those that would follow are too many to be listed."""
        self._with_tags = False
        self._number = 0
        self.skipped_tags = max(1, self.skipped_tags)

    def wanted(self) -> WantedRef | None:
        """Return the ref or commit that is meant, or ``None`` where none of the candidates is listed.

        :raises RemoteProtocolError: its id is not one of a SHA-1 repository.
        """
        if self._commit_id:
            return WantedRef(name=b"", object_id=self._commit_id.decode())
        for name in self._candidates:
            if name in self._ids:
                return WantedRef(name=name, object_id=object_id(self._ids[name]))
        return None

    def default_branch(self) -> WantedRef | None:
        """Return the branch that ``git clone`` checks out where HEAD is not listed and nobody says why."""
        target = self._ids.get(DEFAULT_BRANCH)
        return WantedRef(name=DEFAULT_BRANCH, object_id=object_id(target)) if target else None

    def _guess(self, name: bytes, object_id: bytes) -> None:
        if self._ids.get(HEAD) == object_id and (name == DEFAULT_BRANCH or not self.guessed_branch):
            self.guessed_branch = name

    def _keep_tag(self, name: bytes, object_id: bytes) -> None:
        size = _TAG_OVERHEAD_BYTES + (len(name) + name.count(b'"') if name.isascii() else 6 * len(name))
        if len(self.tags) >= self._limits.refs or self._tag_bytes + size > TAG_BYTES:
            self.skipped_tags += 1
            return
        self._tag_bytes += size
        self.tags[name] = object_id


def object_id(advertised: bytes) -> str:
    """Return the checked id of an advertised ref.

    :raises RemoteProtocolError: it is not an id of a SHA-1 repository.
    """
    text = advertised.decode("latin-1")
    if OBJECT_ID.match(text):
        return text
    raise RemoteProtocolError(reason=SHA256 if len(text) == 64 else "object id")


def advertised_tags(tags: dict[bytes, bytes]) -> tuple[tuple[str, str], ...]:
    """Return names and ids of the tags whose names Git would accept; of an annotated tag the id of the tag object."""
    named = ((ref_text(name), target) for name, target in tags.items())
    return tuple((name, object_id(target)) for name, target in named if name)


def ref_text(name: bytes) -> str:
    """Return a ref name as text, empty where it is none that Git would accept."""
    text = name.decode("utf-8", "surrogateescape")
    return text if is_ref_name(text) else ""
