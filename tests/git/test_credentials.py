"""How a token is sent: under the names that the platforms document, and secret in the half that holds it."""

from __future__ import annotations

from base64 import b64encode

import pytest

from coderepos.crypto.secret import Secret
from coderepos.git.credentials import PublicText, basic_auth, basic_authorization

TOKEN = Secret("tok")


@pytest.mark.parametrize(
    ("platform", "username"),
    [("gitlab", "oauth2"), ("bitbucket", "x-token-auth"), ("gitea", "git"), ("generic", "git")],
)
def test_a_token_is_the_password_of_the_name_that_its_platform_documents(platform: str, username: str) -> None:
    """The name can be read, the password is the very secret that was given."""
    credentials = basic_auth(platform, TOKEN)

    assert credentials.username == PublicText(username)
    assert credentials.password is TOKEN


def test_github_takes_a_token_as_user_name() -> None:
    """The other half is empty."""
    credentials = basic_auth("github", TOKEN)

    assert credentials.username is TOKEN
    assert credentials.password == PublicText("")


@pytest.mark.parametrize("platform", ["github", "gitlab"])
def test_a_user_name_that_was_given_goes_first(platform: str) -> None:
    """Which half is secret depends on its place, and not on how its text reads."""
    for username in ("me", "tok"):
        credentials = basic_auth(platform, TOKEN, username)

        assert credentials.username == PublicText(username)
        assert credentials.password is TOKEN


def test_basic_authorization_is_utf_8_in_base64() -> None:
    """RFC 7617: user name, colon, password; error reports show nothing of it."""
    value = basic_authorization("me", "s3cret:ü")

    assert value == "Basic " + b64encode("me:s3cret:ü".encode()).decode()
    assert "Basic" not in repr(value)
