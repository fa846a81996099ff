"""Basic credentials (RFC 7617): how each platform takes a token, and the header in which they are sent."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from typing import Protocol

from coderepos.git.platforms import TOKEN_USERS
from coderepos.hidden import HiddenBytes, HiddenText


class Revealable(Protocol):
    """A text that opens only when it is asked to by name."""

    def reveal(self) -> str:
        """Return the plain text."""


@dataclass(frozen=True, slots=True)
class PublicText:
    """A text that is not a secret, so that no log masks it."""

    text: str

    def reveal(self) -> str:
        """Return the text."""
        return self.text


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """Basic credentials of one request; which half holds the token depends on the platform."""

    username: Revealable
    password: Revealable


def basic_auth(platform: str, token: Revealable, username: str = "") -> Credentials:
    """Return user name and password under which a platform takes a token.

    :param username: name that the user gave, in place of the one that the platform documents.
    """
    if platform == "github" and not username:
        return Credentials(username=token, password=PublicText(""))
    return Credentials(username=PublicText(username or TOKEN_USERS[platform]), password=token)


def basic_authorization(username: str, password: str) -> str:
    """Return the value of an ``Authorization`` or ``Proxy-Authorization`` header."""
    username, password = HiddenText(username), HiddenText(password)
    pair = HiddenBytes(f"{username}:{password}".encode())
    return HiddenText("Basic " + b64encode(pair).decode())
