"""The HTTP status of every error code; the table in ``docs/api.md`` is compared with this one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

STATUS: Final[Mapping[str, int]] = {
    "invalid_git_url": 422,
    "url_not_allowed": 422,
    "remote_auth_failed": 422,
    "remote_not_found": 422,
    "remote_moved": 422,
    "ref_not_found": 422,
    "repository_empty": 422,
    "unsafe_repository": 422,
    "repository_too_large": 413,
    "preamble_too_large": 422,
    "too_many_refs": 422,
    "too_many_objects": 422,
    "object_too_large": 422,
    "inflated_too_large": 422,
    "too_many_entries": 422,
    "tree_too_deep": 422,
    "path_too_long": 422,
    "remote_unreachable": 502,
    "remote_certificate": 502,
    "proxy_unavailable": 502,
    "remote_throttled": 503,
    "remote_unavailable": 503,
    "remote_protocol_error": 502,
    "remote_error": 502,
    "remote_timeout": 504,
    "clone_timeout": 504,
    "encryption_unavailable": 503,
    "isolation_unavailable": 503,
    "sandbox_refused": 503,
    "sandbox_full": 503,
    "sandbox_unavailable": 503,
    "sandbox_root_missing": 503,
    "sandbox_missing": 409,
    "out_of_memory": 503,
    "worker_lost": 503,
    "token_undecryptable": 409,
    "already_connected": 409,
    "job_running": 409,
    "invalid_state": 409,
    "cancelled": 409,
    "not_found": 404,
    "permission_denied": 403,
    "throttled": 429,
    "internal_error": 500,
}
"""HTTP status of every code of :mod:`coderepos.exceptions`; 401 stays for the caller, a remote's refusal is a 422."""
