"""Masks secrets in text: exact values of living secrets first, then what looks like one."""

from __future__ import annotations

import copy
import logging
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any, ClassVar, Final

from coderepos.crypto.secret import HIDDEN, living_secrets, mask
from coderepos.secret_forms import secret_forms

REMOTE_TEXT_CHARACTERS: Final = 200
MAX_NESTING: Final = 6
UNPRINTABLE: Final = "(cannot be printed)"

_KNOWN_PREFIX: Final = re.compile(
    r"(?<![A-Za-z0-9])(?!.{8}\.\.\.)"  # not what is masked already
    r"(?:gh[pousr]_[A-Za-z0-9_.\-]{16,}|github_pat_[A-Za-z0-9_]{20,}"
    r"|gl(?:pat|oas|dt|rt|cbt|ptt|ft|imt|agent|soat|ffct)-[A-Za-z0-9_.\-]{16,}"
    r"|AT(?:CTT|ATT|BB)[A-Za-z0-9_=.\-]{16,})"
)
_USERINFO: Final = re.compile(r"""(?i)\b([a-z][a-z0-9+.\-]{1,15}://)[^\s/"'<>]*@""")
_AUTHORIZATION: Final = re.compile(
    r"""(?ix)((?:authorization|private-token|x-gitlab-token)(?:\\*["']\s*,|\\*["']?\s*[:=])\s*(?:b?\\*["'])?
    (?:(?:basic|bearer|token)\s+)?)[^\s"',}\\]+"""
)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200b-\u200f\u202a-\u202e\u2066-\u2069]+")
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({})))


def redact(text: str) -> str:
    """Return ``text`` with every secret masked."""
    for secret in sorted(living_secrets(), key=len, reverse=True):
        for form in secret_forms(secret):
            if form in text:
                text = text.replace(form, mask(secret))
    text = _USERINFO.sub(rf"\1{HIDDEN}@", text)
    text = _AUTHORIZATION.sub(rf"\1{HIDDEN}", text)
    return _KNOWN_PREFIX.sub(lambda match: mask(match[0]), text)


def safe_remote_text(text: str) -> str:
    """Return text of a remote server as it may be stored and shown: redacted, without control bytes, cut short."""
    return _CONTROL.sub(" ", redact(text)).strip()[:REMOTE_TEXT_CHARACTERS]


class RedactingFilter(logging.Filter):
    """Masks secrets in the message, the traceback and the extra values of a record; to be put on handlers."""

    replaces_records: ClassVar[bool] = sys.version_info >= (3, 12)
    """Whether a filter may hand on another record than the one it got."""

    def filter(self, record: logging.LogRecord) -> Any:
        """Return a redacted copy of ``record``, since other handlers get the original and redact it themselves.

        Where Python knows no such copies, ``record`` itself is redacted, for the handlers after this one too.
        """
        clean = _redacted(record)
        if self.replaces_records:
            return clean
        vars(record).update(vars(clean))
        return True


def _redacted(record: logging.LogRecord) -> logging.LogRecord:
    clean = copy.copy(record)
    clean.msg, clean.args = _message(record), None
    if "message" in vars(record):  # left behind by the formatter of another handler
        clean.message = clean.msg
    if isinstance(record.exc_info, tuple) and record.exc_info[1] is not None:
        kind, error, frames = record.exc_info
        clean.exc_text = _printed(lambda: "".join(traceback.format_exception(kind, error, frames)).rstrip())
        clean.exc_info = None
    elif record.exc_text:
        clean.exc_text = redact(record.exc_text)
    if record.stack_info:
        clean.stack_info = redact(record.stack_info)
    for name in vars(record).keys() - _STANDARD - {"message"}:
        setattr(clean, name, _redacted_value(getattr(record, name)))
    return clean


def _message(record: logging.LogRecord) -> str:
    """Return the redacted message; where it cannot be formatted, its parts, rather than no message at all."""
    text = _printed(record.getMessage)
    return text if text != UNPRINTABLE else f"{_printed(lambda: str(record.msg))} {_redacted_value(record.args)}"


def _redacted_value(value: Any, nesting: int = 0) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict | list | tuple) and nesting < MAX_NESTING:
        if isinstance(value, dict):
            return {
                _redacted_value(key, nesting + 1): _redacted_value(item, nesting + 1) for key, item in value.items()
            }
        items = [_redacted_value(item, nesting + 1) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return _redacted_object(value)


def _redacted_object(value: object) -> object:
    """Return ``value`` itself, or text in its place where a formatter would print a secret from it."""
    for show in (repr,) if isinstance(value, bytes) else (str, repr):
        try:
            text = show(value)
        except Exception:  # as in _printed
            return UNPRINTABLE
        if (clean := redact(text)) != text:
            return clean
    return value


def _printed(show: Callable[[], str]) -> str:
    """Return redacted text; whatever a foreign object does when it is printed, its log record is not lost."""
    try:
        return redact(show())
    except Exception:
        return UNPRINTABLE
