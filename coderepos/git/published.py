"""Reads from a published version what its pack does not say: the outcome of the fetch that it was built from.

The build child wrote these files from what a Git host sent, so everything is checked again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Final

from coderepos.git.limits import Limits
from coderepos.git.pack.bare_repository import NAME, PACK_DIRECTORY
from coderepos.git.wire import MESSAGE_BYTES, FetchOutcome

_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PACK_FILE: Final = re.compile(r"pack-[0-9a-f]{40}\.(pack|idx)\Z")
_MOST_BYTES: Final = 2 * MESSAGE_BYTES
_BRANCH: Final = "ref: "
_TAGS: Final = "refs/tags/"


def outcome_of(version: int, *, pack_bytes: int, limits: Limits) -> FetchOutcome:
    """Return the outcome from which the same refs are written again.

    :param version: descriptor of the directory of the version.
    :param pack_bytes: size of its pack.
    :raises ValueError: it is not as the build child writes it.
    :raises OSError: it can't be read.
    """
    head = _text(version, "HEAD").removesuffix("\n")
    refs = dict(_refs(_text(version, "packed-refs")))
    branch = head.removeprefix(_BRANCH) if head.startswith(_BRANCH) else ""
    fields: dict[str, Any] = {
        "wanted_id": refs.get(branch) if branch else head,
        "ref_name": branch,
        "head_branch": branch,
        "tags": [[name, object_id] for name, object_id in refs.items() if name.startswith(_TAGS)],
        "shallow": _text(version, "shallow", may_be_missing=True).split(),
        "pack_bytes": pack_bytes,
    }
    return FetchOutcome.from_json(fields, limits=limits)


@contextmanager
def opened_pack(version: int) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Open pack and index of a published version for the length of a ``with`` block.

    :param version: descriptor of the directory of the version.
    :raises ValueError: there is not one of each.
    :raises OSError: they can't be opened.
    """
    directory = os.open(PACK_DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=version)
    try:
        names = {found[1]: name for name in os.listdir(directory) if (found := _PACK_FILE.match(name))}
        if names.keys() != {"pack", "idx"}:
            raise ValueError("pack")
        with (
            open(os.open(names["pack"], _FILE, dir_fd=directory), "rb") as pack,
            open(os.open(names["idx"], _FILE, dir_fd=directory), "rb") as index,
        ):
            yield pack, index
    finally:
        os.close(directory)


def _text(version: int, name: str, *, may_be_missing: bool = False) -> str:
    try:
        descriptor = os.open(f"{NAME}/{name}", _FILE, dir_fd=version)
    except FileNotFoundError:
        if may_be_missing:
            return ""
        raise
    with open(descriptor, "rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(name)
    return content.decode("utf-8", "surrogateescape")


def _refs(text: str) -> Iterator[tuple[str, str]]:
    # No splitlines(): a name may hold what that takes for the end of a line.
    for line in text.split("\n"):
        if line and line[0] not in "#^":
            object_id, _, name = line.partition(" ")
            yield name, object_id
