"""The columns in which rows keep their last error."""

from __future__ import annotations

from typing import Any

from coderepos.exceptions import CodeReposError


def error_columns(error: CodeReposError | None) -> dict[str, Any]:
    """Return the values of ``error_code`` and ``error_message`` for an error; empty ones for ``None``."""
    code, message = (error.code, error.message) if error else ("", "")
    return {"error_code": code, "error_message": message}
