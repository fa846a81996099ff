"""Masks secrets in text: exact values of living secrets first, then what looks like one."""

from __future__ import annotations

import base64
import json
import logging
import re
import traceback
from typing import Any, Final
from urllib.parse import quote, quote_plus

from coderepos.crypto.secret import HIDDEN, living_secrets, mask

SHORTEST_FORM: Final = 6
REMOTE_TEXT_CHARACTERS: Final = 200

_KNOWN_PREFIX: Final = re.compile(
    r"\b(?:gh[pousr]_[A-Za-z0-9_.\-]{16,}|github_pat_[A-Za-z0-9_]{20,}"
    r"|gl(?:pat|oas|dt|rt|cbt|ptt|ft|imt|agent|soat|ffct)-[A-Za-z0-9_.\-]{16,}"
    r"|AT(?:CTT|ATT|BB)[A-Za-z0-9_=.\-]{16,})"
)
_USERINFO: Final = re.compile(r"(?i)\b([a-z][a-z0-9+.\-]{1,15}://)[^\s/@]*@")
_AUTHORIZATION: Final = re.compile(
    r"""(?ix)((?:authorization|proxy-authorization|private-token|x-gitlab-token)["']?\s*[:=]\s*b?["']?
    (?:(?:basic|bearer|token)\s+)?)[^\s"',}]+"""
)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def redact(text: str) -> str:
    """Return ``text`` with every secret masked."""
    for secret in sorted(living_secrets(), key=len, reverse=True):
        for form in _forms(secret):
            if form in text:
                text = text.replace(form, mask(secret))
    text = _USERINFO.sub(rf"\1{HIDDEN}@", text)
    text = _AUTHORIZATION.sub(rf"\1{HIDDEN}", text)
    return _KNOWN_PREFIX.sub(lambda match: match[0] if "..." in match[0] else mask(match[0]), text)


def safe_remote_text(text: str) -> str:
    """Return text of a remote server as it may be stored and shown: redacted, without control bytes, cut short."""
    return _CONTROL.sub(" ", redact(text)).strip()[:REMOTE_TEXT_CHARACTERS]


def _forms(secret: str) -> list[str]:
    """Return every form that a secret takes in logs, the longest first.

    In base64 only the characters that the secret alone decides are searched for, at each of the three alignments.
    """
    raw = secret.encode()
    forms = {
        secret,
        quote(secret, safe=""),
        quote_plus(secret),
        json.dumps(secret)[1:-1],
        repr(secret)[1:-1],
        raw.hex(),
    }
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + raw).decode()
        fixed = encoded[(shift * 8 + 5) // 6 : (shift + len(raw)) * 8 // 6]
        forms |= {fixed, fixed.translate(str.maketrans("+/", "-_"))}
    return sorted((form for form in forms if len(form) >= SHORTEST_FORM), key=len, reverse=True)


class RedactingFilter(logging.Filter):
    """Masks secrets in the message, the traceback and the extra values of a record; to be put on handlers."""

    def filter(self, record: logging.LogRecord) -> logging.LogRecord:
        """Return a redacted copy of ``record``: other handlers get the original, and redact it themselves."""
        clean = logging.makeLogRecord(vars(record))
        clean.msg, clean.args = redact(_message(record)), None
        if record.exc_info and record.exc_info[1] is not None:
            clean.exc_text = redact("".join(traceback.format_exception(*record.exc_info)).rstrip())
            clean.exc_info = None
        elif record.exc_text:
            clean.exc_text = redact(record.exc_text)
        if record.stack_info:
            clean.stack_info = redact(record.stack_info)
        for name in vars(record).keys() - _STANDARD:
            setattr(clean, name, _redact_value(getattr(record, name)))
        return clean


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        return f"{record.msg} {record.args}"


def _redact_value(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = str(value)
    clean = redact(text)
    return value if clean == text and not isinstance(value, str) else clean
