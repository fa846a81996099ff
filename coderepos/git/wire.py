"""The messages between the parent process and its children: one JSON object per line.

Messages from a child are untrusted, since the fetch child talks to a hostile server and the build child reads hostile
objects: the ``from_json`` methods check every name, type and range.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Self, TypeGuard

from coderepos.git.limits import Limits
from coderepos.git.network_policy import NetworkPolicy, Proxy
from coderepos.git.ref_names import is_ref_name
from coderepos.git.text import is_display_text
from coderepos.hidden import HiddenBytes

MESSAGE_BYTES: Final = 8 * 10**6
"""Longest message: an outcome with 50,000 tags and 80,000 commits whose parents were cut off."""

OBJECT_ID: Final = re.compile(r"[0-9a-f]{40}\Z")

_NAME: Final = re.compile(r"[a-z][a-z_]{0,39}\Z")
_LARGEST: Final = 2**53
_JSON: Final = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"))


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchRequest:
    """What the fetch child is to fetch; sent on its standard input only, since it contains the token.

    ``username`` and ``password`` are plain text: the parent creates the message last and keeps no copy.
    """

    url: str
    """Text of the URL, which the child parses and checks again."""

    username: str | None = field(repr=False)
    password: str | None = field(repr=False)
    ref: str
    """Branch, tag, full ref name or full commit id; empty for the remote's default branch."""

    depth: int | None
    """Commits of history to fetch; ``None`` for all."""

    policy: NetworkPolicy
    limits: Limits
    min_level: int
    count_only: bool
    """Whether to count the pack bytes instead of passing them on: a probe."""

    wants_platform_size: bool = False
    """Whether to ask the platform's API for the size of the repository too."""

    full_history_fallback: bool = False
    """Whether to count the whole history if the server does not support shallow clones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildRequest:
    """Where and how the build child is to write."""

    incoming: str
    """Absolute path of the empty, writable ``.incoming-*`` directory."""

    limits: Limits
    min_level: int
    group_readable: bool = False
    """Whether the sandbox's group may read what is written (0550/0440 instead of 0500/0400)."""

    index_bytes: int = 0
    """Size of the index that comes after the pack, where an earlier build has written both; 0 where none comes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchRequest:
    """How the child that searches a small pack is to be confined."""

    limits: Limits
    min_level: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchOutcome:
    """What the fetch child found out besides the pack."""

    wanted_id: str
    """Id of the wanted object, 40 hex digits; for an annotated tag the id of the tag object."""

    ref_name: str
    """Full name of the fetched ref such as ``refs/heads/main``; empty for a commit given by id."""

    head_branch: str
    """Branch that the remote's HEAD points to, such as ``refs/heads/main``; empty if it is detached or unknown."""

    tags: tuple[tuple[str, str], ...] = ()
    """Names and object ids of the advertised tags; the build child keeps those whose object is in the pack."""

    skipped_tags: int = 0
    """Number of further tags, at least: beyond the limit, or with names that Git refuses."""

    shallow: tuple[str, ...] = ()
    """Ids of the shallow commits, whose parents were cut off."""

    pack_bytes: int = 0
    """Size of the pack that was passed on."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, limits: Limits) -> Self:
        """Return the checked value of an untrusted message.

        :raises ValueError: a field is missing, has another type, or is out of range.
        """
        tags, shallow, pack_bytes = value.get("tags"), value.get("shallow"), value.get("pack_bytes")
        if (
            not isinstance(tags, list)
            or not isinstance(shallow, list)
            or len(tags) + len(shallow) > limits.refs + limits.objects
        ):
            raise ValueError("tags or shallow")
        if type(pack_bytes) is not int or not 0 <= pack_bytes <= limits.wire_bytes:
            raise ValueError("pack_bytes")
        skipped_tags = value.get("skipped_tags", 0)
        if type(skipped_tags) is not int or not 0 <= skipped_tags <= limits.listed_refs:
            raise ValueError("skipped_tags")
        pairs = []
        for tag in tags:
            if not isinstance(tag, list) or len(tag) != 2:
                raise ValueError("tags")
            pairs.append((_ref_name(tag[0], below="refs/tags/"), _object_id(tag[1])))
        return cls(
            wanted_id=_object_id(value.get("wanted_id")),
            ref_name=_ref_name(value.get("ref_name"), may_be_empty=True),
            head_branch=_ref_name(value.get("head_branch"), below="refs/heads/", may_be_empty=True),
            tags=tuple(pairs),
            skipped_tags=skipped_tags,
            shallow=tuple(_object_id(one) for one in shallow),
            pack_bytes=pack_bytes,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildReport:
    """What the build child has written."""

    commit_id: str
    git_bytes: int
    tree_bytes: int
    objects: int
    entries: int
    substitutions: dict[str, int]
    """Number of entries that were not written as they are in the repository, by reason (docs/how-it-works.md)."""

    substituted_paths: tuple[str, ...]
    """Up to a hundred of them as ``reason: path``, printable."""

    seconds: dict[str, float]
    """Wall clock per phase: ``scan`` or ``copy``, ``resolve``, ``index``, ``checkout``."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the checked value of an untrusted message.

        :raises ValueError: a field is missing, has another type, or is out of range.
        """
        numbers = {name: value.get(name) for name in ("git_bytes", "tree_bytes", "objects", "entries")}
        if not all(map(_is_count, numbers.values())):
            raise ValueError("numbers")
        substitutions, paths, seconds = value.get("substitutions"), value.get("substituted_paths"), value.get("seconds")
        if not _is_table(substitutions) or not all(map(_is_count, substitutions.values())):
            raise ValueError("substitutions")
        if (
            not isinstance(paths, list)
            or len(paths) > 100
            or not all(isinstance(path, str) and is_display_text(path) and len(path) <= 4_000 for path in paths)
        ):
            raise ValueError("substituted_paths")
        if not _is_table(seconds) or not all(
            type(number) in (int, float) and 0 <= number <= _LARGEST for number in seconds.values()
        ):
            raise ValueError("seconds")
        return cls(
            commit_id=_object_id(value.get("commit_id")),
            substitutions=substitutions,
            substituted_paths=tuple(paths),
            seconds=seconds,
            **numbers,  # type: ignore[arg-type]  # checked to be whole numbers
        )


def dump_line(value: Mapping[str, Any]) -> bytes:
    """Return a message as a line of bytes whose ``repr()`` hides the content, which may include a token."""
    # Not json.dumps(), in whose frames the text is a local variable.
    return HiddenBytes("".join(_JSON.iterencode(value, _one_shot=True)).encode() + b"\n")


def message_fields(value: FetchOutcome | BuildReport) -> dict[str, Any]:
    """Return the fields of a value for its message, without the copies that :func:`dataclasses.asdict` makes."""
    return {one.name: getattr(value, one.name) for one in fields(value)}


def request_line(request: FetchRequest | BuildRequest | SearchRequest) -> bytes:
    """Return a request as one line for the child's standard input."""
    return dump_line(asdict(request))


def fetch_request(value: Mapping[str, Any]) -> FetchRequest:
    """Return the request that :func:`request_line` wrote; the parent is trusted, so nothing is checked."""
    policy: dict[str, Any] = {
        name: tuple(item) if isinstance(item, list) else item for name, item in value["policy"].items()
    }
    if policy.get("proxy"):
        policy["proxy"] = Proxy(**policy["proxy"])
    return FetchRequest(**{**value, "policy": NetworkPolicy(**policy), "limits": Limits(**value["limits"])})


def build_request(value: Mapping[str, Any]) -> BuildRequest:
    """Return the request that :func:`request_line` wrote; the parent is trusted, so nothing is checked."""
    return BuildRequest(**{**value, "limits": Limits(**value["limits"])})


def search_request(value: Mapping[str, Any]) -> SearchRequest:
    """Return the request that :func:`request_line` wrote; the parent is trusted, so nothing is checked."""
    return SearchRequest(**{**value, "limits": Limits(**value["limits"])})


def load_line(line: bytes) -> dict[str, Any]:
    """Parse one line.

    :raises ValueError: the line is too long, not JSON, or not an object.
    """
    if len(line) > MESSAGE_BYTES:
        raise ValueError("message too long")
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError("message is not an object")
    return value


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST


def _is_table(value: object) -> TypeGuard[dict[str, Any]]:
    """Return whether this is an object with a few values under short plain names."""
    return isinstance(value, dict) and len(value) <= 20 and all(map(_NAME.match, value))


def _object_id(value: object) -> str:
    if not isinstance(value, str) or not OBJECT_ID.match(value):
        raise ValueError("object id")
    return value


def _ref_name(value: object, *, below: str = "refs/", may_be_empty: bool = False) -> str:
    if may_be_empty and value == "":
        return ""
    if not isinstance(value, str) or not is_ref_name(value, below=below):
        raise ValueError("ref name")
    return value
