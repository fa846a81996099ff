"""Finds the wanted ref: which names it may have, which prefixes to list, and what to keep of the listing."""

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
"""Most names of each kind that are kept, to suggest them to users."""

TAG_BYTES: Final = 4 * 10**6
"""Most bytes that all tags may take in a message."""

DEFAULT_BRANCH: Final = b"refs/heads/master"
"""The default branch unless ``init.defaultBranch`` is set."""

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
    """Return ``ref`` in lower case if it is a full commit id, or an empty string.

    Every Git command takes forty hex digits for an id, even if there is a branch or tag of that name.
    """
    return ref.lower() if _FULL_ID.match(ref) else ""


def is_short_id(ref: str) -> bool:
    """Return whether ``ref`` looks like an abbreviated commit id, which servers do not resolve."""
    return bool(_SHORT_ID.match(ref))


def ref_candidates(ref: str) -> list[bytes]:
    """Return the full names that ``ref`` may stand for, in order of preference: branches before tags.

    This is the order of ``git clone --branch``; names such as ``tags/v1``, ``heads/main`` and ``pull/1/head`` are
    resolved as by ``git rev-parse``. Names that Git refuses are skipped.
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
    """Takes the refs of a server as they arrive, and keeps the few that matter.

    :param ref: branch, tag, full ref name or full commit id, as the user gave it; empty for the default branch.
    :param with_tags: whether to keep the tags.
    """

    def __init__(self, ref: str, limits: Limits, *, with_tags: bool) -> None:
        self.head_target = b""
        """Full name of the branch that HEAD points to; empty if it is detached or unknown."""
        self.tags: Final[dict[bytes, bytes]] = {}
        """Ids by full name; for an annotated tag the id of the tag object."""
        self.skipped_tags = 0
        """Number of tags beyond the limit."""
        self.shown: Final[dict[bytes, list[bytes]]] = {HEADS: [], TAGS: [], b"refs/": []}
        """The first names of branches, tags and other refs, to suggest them to users."""
        self.guessed_branch = b""
        """Branch that ``git clone`` guesses for HEAD if the server names none: ``guess_remote_head`` of Git.

        That is ``master`` or else the first branch with the same id as HEAD.
        """
        self.has_commit = False
        """Whether a ref points to the commit that is wanted by its id."""
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
        """The prefixes to list in protocol v2: HEAD, the candidates and, if they are kept, all tags."""
        names = [HEAD, *(name for name in self._candidates if name != HEAD)]
        if not self._with_tags:
            return names
        return [*(name for name in names if not name.startswith(TAGS)), TAGS]

    def add(self, name: bytes, object_id: bytes) -> None:
        """Add the next ref.

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
            self._update_guess(name, object_id)
        elif kind == TAGS and self._with_tags:
            self._keep_tag(name, object_id)

    def add_peeled(self, object_id: bytes) -> None:
        """Add the id of the object that an annotated tag names."""
        self.has_commit |= object_id == self._commit_id

    def drop_tags(self) -> None:
        """Prepare for a new listing without tags, after one that was too long."""
        self._with_tags = False
        self._number = 0
        self.skipped_tags = max(1, self.skipped_tags)

    def wanted(self) -> WantedRef | None:
        """Return the wanted ref or commit, or ``None`` if no candidate was listed.

        :raises RemoteProtocolError: its id is not a SHA-1 id.
        """
        if self._commit_id:
            return WantedRef(name=b"", object_id=self._commit_id.decode())
        for name in self._candidates:
            if name in self._ids:
                return WantedRef(name=name, object_id=object_id(self._ids[name]))
        return None

    def default_branch(self) -> WantedRef | None:
        """Return the branch that ``git clone`` checks out if HEAD is not listed."""
        target = self._ids.get(DEFAULT_BRANCH)
        return WantedRef(name=DEFAULT_BRANCH, object_id=object_id(target)) if target else None

    def _update_guess(self, name: bytes, object_id: bytes) -> None:
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
    """Return the id of an advertised ref as text.

    :raises RemoteProtocolError: it is not a SHA-1 id.
    """
    text = advertised.decode("latin-1")
    if OBJECT_ID.match(text):
        return text
    raise RemoteProtocolError(reason=SHA256 if len(text) == 64 else "object id")


def advertised_tags(tags: dict[bytes, bytes]) -> tuple[tuple[str, str], ...]:
    """Return names and ids of the tags, without those whose names Git refuses."""
    named = ((ref_text(name), target) for name, target in tags.items())
    return tuple((name, object_id(target)) for name, target in named if name)


def ref_text(name: bytes) -> str:
    """Return a ref name as text, or an empty string if Git would refuse it."""
    text = name.decode("utf-8", "surrogateescape")
    return text if is_ref_name(text) else ""
