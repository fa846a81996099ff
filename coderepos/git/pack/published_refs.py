"""Decides which refs a sandbox gets: the branch or tag that was fetched and the tags that came along, nothing else.

Refs outside of ``refs/heads/`` and ``refs/tags/`` change what Git shows (``refs/replace/``), or are notes and work in
progress: whoever asks for one gets its commit, with HEAD on it.
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
        """Full name of the branch that HEAD points to; empty where HEAD holds the commit itself."""
        self.ids: Final[dict[bytes, str]] = {}
        """Object ids by full name."""
        self.peeled: Final[dict[bytes, str]] = {}
        """What those that are tag objects finally name."""


def published_refs(
    outcome: FetchOutcome,
    commit_id: str,
    pack: Pack,
    by_id: Mapping[bytes, int],
    peeler: Peeler,
    substitutions: Substitutions,
) -> PublishedRefs:
    """Return the refs to write, and count the tags that are left out although their object came along.

    Those are tags whose name Git refuses or cannot have beside another one's, and those that lead nowhere.

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
            _leave_out(ref_bytes(name), substitutions)
    for tag in _side_by_side(tags, wanted, substitutions):
        refs.ids[tag] = pack.object_id(tags[tag]).hex()
        end = peeler.peel(tags[tag])
        if end is not None and end != tags[tag]:
            refs.peeled[tag] = pack.object_id(end).hex()
    substitutions.add_unnamed("tag", outcome.skipped_tags)
    return refs


def _side_by_side(tags: Mapping[bytes, int], wanted: bytes, substitutions: Substitutions) -> Iterator[bytes]:
    """Yield the names that may stand beside each other: ``a`` is a file and ``a/b`` needs a directory of this name."""
    above = b""
    # In this order all that is below a name follows it at once.
    for name in sorted(tags, key=lambda name: name.replace(b"/", b"\0")):
        if (above and name.startswith(above + b"/")) or wanted.startswith(name + b"/"):
            _leave_out(name, substitutions)
        else:
            above = name
            yield name


def _leave_out(name: bytes, substitutions: Substitutions) -> None:
    substitutions.add("tag", name.removeprefix(TAGS.encode()))
