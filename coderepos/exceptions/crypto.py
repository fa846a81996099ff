"""Errors of keys and sealed tokens."""

from __future__ import annotations

from coderepos.exceptions.base import CodeReposError


class CryptoError(CodeReposError):
    """Superclass of errors of keys and sealed tokens."""


class EncryptionUnavailable(CryptoError):
    """The encryption key is not available right now, so nothing was stored; try again later."""

    code = "encryption_unavailable"
    retryable = True


class TokenUndecryptable(CryptoError):
    """The stored access token cannot be opened: it, its key or the host of its URL was changed; replace the token."""

    code = "token_undecryptable"
