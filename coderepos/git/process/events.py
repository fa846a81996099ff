"""What a child may say while it works, checked before anything of it is used.

A child talks to a hostile server or reads hostile objects, so its events are data: names come from fixed lists,
numbers from a range, and an error is rebuilt from its code and a few short fields.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any, Final

from coderepos.exceptions import (
    CloneEvicted,
    CloneExpired,
    CodeReposError,
    GitError,
    InternalError,
    LimitExceeded,
    RefNotFound,
    RemoteError,
    RemoteMoved,
    SandboxMissing,
    SandboxRootMissing,
    StorageUnavailable,
    StoreDamaged,
    WaitingForDisk,
    error_classes,
)
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.refs import SHOWN_NAMES
from coderepos.git.remote_text import REMOTE_TEXT_CHARACTERS
from coderepos.git.results import Progress
from coderepos.git.text import is_display_text
from coderepos.git.url import parse_git_url, with_path

logger = logging.getLogger(__name__)

PHASES: Final = ("connecting", "receiving", "resolving", "writing", "publishing")
"""In the order in which a clone passes them."""

_LARGEST: Final = 2**53
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}\Z")
_SHORT: Final = re.compile(r"[A-Za-z0-9_ .-]{1,80}\Z")
_TRACE: Final = re.compile(r"[A-Za-z0-9_.<>/-]{1,120}:[0-9]{1,6} [A-Za-z0-9_.<>]{1,80}\Z")
_RESERVED: Final = frozenset({"message", "error", "self"})  # these would replace what users and programs read
_MOST_FIELDS: Final = 12
_MOST_FRAMES: Final = 40

OURS_ALONE: Final = frozenset(
    {
        CloneEvicted,
        CloneExpired,
        SandboxMissing,
        SandboxRootMissing,
        StorageUnavailable,
        StoreDamaged,
        WaitingForDisk,
    }
)
"""Errors that this side finds out by itself, and acts upon: a child must not have it begin again, or forget a pack."""

ERRORS: Final = {
    code: kind
    for code, kind in (error_classes(GitError) | error_classes(InternalError)).items()
    if kind not in OURS_ALONE
}
"""Errors that a child may say, by their codes."""


def isolation(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a ``started`` event says the child is confined by.

    :raises ValueError: it names no level, or anything but short plain values.
    """
    confined = event.get("isolation")
    if not isinstance(confined, dict) or confined.get("level") not in (1, 2, 3):
        raise ValueError("isolation")
    return _plain_fields(confined)


def progress(event: Mapping[str, Any], before: Progress) -> Progress:
    """Return ``before``, moved on by a ``progress`` event of either child; nothing ever goes back.

    :raises ValueError: an unknown phase or a figure out of range.
    """
    phase = event.get("phase", before.phase)
    if phase not in PHASES:
        raise ValueError("phase")
    figures = {name: event.get(name) or 0 for name in ("received_bytes", "objects", "total_objects")}
    if any(type(figure) is not int or not 0 <= figure <= _LARGEST for figure in figures.values()):
        raise ValueError("figures")
    return Progress(
        phase=max(before.phase, phase, key=PHASES.index),
        received_bytes=max(before.received_bytes, figures["received_bytes"]),
        objects=max(before.objects, figures["objects"]),
        total_objects=max(before.total_objects, figures["total_objects"]),
    )


def error(
    event: Mapping[str, Any], *, child: str, url: str = "", policy: NetworkPolicy | None = None
) -> CodeReposError:
    """Return the exception that an ``error`` event stands for, and log where in the child it came from.

    :param child: its name, for the log.
    :param url: URL of the repository, under ``policy``; the place to which it has moved is of the same origin.
    :raises ValueError: an unknown code, or fields that are not short plain values.
    """
    code, fields = event.get("code"), event.get("fields", {})
    kind = ERRORS.get(code) if isinstance(code, str) else None
    if kind is None or not isinstance(fields, dict):
        raise ValueError("error")
    texts = _remote_texts(kind, fields) | _moved_to(kind, fields, url, policy)
    fields = {**_plain_fields({name: value for name, value in fields.items() if name not in texts}), **texts}
    detail = fields.get("errno") or fields.get("reason")
    why = f"{code} ({detail})" if detail else code
    logger.warning("The %s child ends with %s at %s", child, why, " < ".join(_trace(event)) or "an unknown place")
    if issubclass(kind, LimitExceeded):
        figures = {name: fields.pop(name, None) for name in ("figure", "limit")}
        if all(type(figure) is int for figure in figures.values()):
            return kind(**figures, **fields)
    return kind(**fields)


def _remote_texts(kind: type[CodeReposError], fields: Mapping[str, object]) -> dict[str, Any]:
    """Return those fields that hold text of the remote, which the child has masked and this side redacts once more.

    :raises ValueError: they are not what the child makes of such text.
    """
    if kind is RemoteError and "remote_text" in fields:
        return {"remote_text": _printable(fields["remote_text"])}
    if kind is RefNotFound and "names" in fields:
        names = fields["names"]
        if not isinstance(names, list) or len(names) > SHOWN_NAMES:
            raise ValueError("remote text")
        return {"names": [_printable(name) for name in names]}
    return {}


def _printable(text: object) -> str:
    if not isinstance(text, str) or not is_display_text(text) or len(text) > REMOTE_TEXT_CHARACTERS:
        raise ValueError("remote text")
    return text


def _moved_to(
    kind: type[CodeReposError], fields: Mapping[str, object], url: str, policy: NetworkPolicy | None
) -> dict[str, Any]:
    """Return the URL of the place to which a repository has moved on its host, out of its path.

    :raises ValueError: the path is none that a Git URL may have.
    """
    if kind is not RemoteMoved or "moved_to" not in fields:
        return {}
    path = fields["moved_to"]
    if not isinstance(path, str) or policy is None:
        raise ValueError("fields")
    try:
        return {"moved_to": with_path(parse_git_url(url, policy), path).base}
    except GitError:
        raise ValueError("fields") from None


def _plain_fields(fields: Mapping[object, object]) -> dict[str, Any]:
    if len(fields) > _MOST_FIELDS:
        raise ValueError("fields")
    for name, value in fields.items():
        if not isinstance(name, str) or not _NAME.match(name) or name in _RESERVED:
            raise ValueError("fields")
        is_number = isinstance(value, int | float) and -_LARGEST <= value <= _LARGEST
        if not (value is None or is_number or (isinstance(value, str) and _SHORT.match(value))):
            raise ValueError("fields")
    return dict(fields)  # type: ignore[arg-type]  # all names were seen to be text


def _trace(event: Mapping[str, Any]) -> list[str]:
    frames = event.get("trace")
    if not isinstance(frames, list):
        return []
    return [frame for frame in frames[-_MOST_FRAMES:] if isinstance(frame, str) and _TRACE.match(frame)]
