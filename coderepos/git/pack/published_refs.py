"""Selects the refs that a sandbox gets: the fetched branch or tag, and the tags that came with it.

Refs outside of ``refs/heads/`` and ``refs/tags/`` are not written, since some change what Git shows
(``refs/replace/``). Where such a ref was fetched, HEAD is detached at its commit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from coderepos.git.pack.pack_file import Pack
from coderepos.git.pack.peeling import Peeler
from coderepos.git.ref_names import is_ref_name
from coderepos.git.substitutions import Substitutions
from coderepos.git.text import ref_bytes
from coderepos.git.wire import FetchOutcome

HEADS: Final = "refs/heads/"
TAGS: Final = "refs/tags/"


class PublishedRefs:
    """The refs of a sandbox.

    :param commit_id: of the fetched commit.
    """

    def __init__(self, commit_id: str) -> None:
        self.commit_id: Final = commit_id
        self.branch = b""
        """Full name of the branch that HEAD points to; empty where HEAD is detached."""
        self.ids: Final[dict[bytes, str]] = {}
        """Object ids by full name."""
        self.peeled: Final[dict[bytes, str]] = {}
        """Ids of the objects that annotated tags finally name, by full name of the tag."""


def published_refs(
    outcome: FetchOutcome,
    commit_id: str,
    pack: Pack,
    by_id: Mapping[bytes, int],
    peeler: Peeler,
    substitutions: Substitutions,
) -> PublishedRefs:
    """Return the refs to write, and count the tags that are skipped although their object is in the pack.

    A tag is skipped if it cannot be peeled, if Git refuses its name, or if the name conflicts with that of another ref.

    :param by_id: positions of all objects.
    """
    refs = PublishedRefs(commit_id)
    wanted = ref_bytes(outcome.ref_name)
    tags: dict[bytes, int] = {}
    if outcome.ref_name.startswith(HEADS):
        refs.branch = wanted
        refs.ids[wanted] = commit_id
    elif outcome.ref_name.startswith(TAGS):
        tags[wanted] = by_id[bytes.fromhex(outcome.wanted_id)]
    for name, object_id in outcome.tags:
        position = by_id.get(bytes.fromhex(object_id))
        if position is None:
            continue
        if name.startswith(TAGS) and is_ref_name(name) and peeler.peel(position) is not None:
            tags.setdefault(ref_bytes(name), position)
        else:
            _skip(ref_bytes(name), substitutions)
    for tag in _without_conflicts(tags, wanted, substitutions):
        refs.ids[tag] = pack.object_id(tags[tag]).hex()
        end = peeler.peel(tags[tag])
        if end is not None and end != tags[tag]:
            refs.peeled[tag] = pack.object_id(end).hex()
    substitutions.add_unnamed("tag", outcome.skipped_tags)
    return refs


def _without_conflicts(tags: Mapping[bytes, int], wanted: bytes, substitutions: Substitutions) -> Iterator[bytes]:
    """Yield the names that do not conflict: beside the file ``a`` there cannot be ``a/b``."""
    above = b""
    # In this order the names below a name follow it directly.
    for name in sorted(tags, key=lambda name: name.replace(b"/", b"\0")):
        if (above and name.startswith(above + b"/")) or wanted.startswith(name + b"/"):
            _skip(name, substitutions)
        else:
            above = name
            yield name


def _skip(name: bytes, substitutions: Substitutions) -> None:
    substitutions.add("tag", name.removeprefix(TAGS.encode()))
