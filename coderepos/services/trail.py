"""What the audit trail keeps of errors."""

from __future__ import annotations

from typing import Any

from coderepos.crypto.redaction import redact
from coderepos.exceptions import CodeReposError


def failure(error: CodeReposError) -> dict[str, Any]:
    """Return code and figures of an error; texts are fixed ones of ours, and redacted all the same."""
    figures = {name: value for name, value in error.fields.items() if isinstance(value, int | float)}
    texts = {name: redact(value) for name, value in error.fields.items() if isinstance(value, str)}
    return {**figures, **texts, "code": error.code}
