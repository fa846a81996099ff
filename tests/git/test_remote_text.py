"""Text of the remote: no secret in any form, nothing that does not print, and not much of it."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderepos.git.remote_text import REMOTE_TEXT_CHARACTERS, harmless_text, remote_error

USER = "x-access-token"
TOKEN = 'ghp_0a1B2c3D4e5F6g7H/knows+this&one"\\<='
SECRETS = (USER, TOKEN)

ECHOES: dict[str, Callable[[str], str]] = {
    "raw": str,
    "upper case": str.upper,
    "lower case": str.lower,
    "reversed": lambda text: text[::-1],
    "swapped case": str.swapcase,
    "spaced": " ".join,
    "broken by control bytes": "\x1b".join,
    "broken by invisible characters": "\u200b".join,
    "broken by a line feed": lambda text: f"{text[:20]}\n{text[20:]}",
    "one half": lambda text: text[: len(text) // 2],
    "the other half": lambda text: text[len(text) // 2 :],
    "dashes": "-".join,
    "percent-encoded": lambda text: quote(text, safe=""),
    "percent-encoded form": quote_plus,
    "JSON": json.dumps,
    "repr": repr,
    "HTML": html.escape,
    "hex": lambda text: text.encode().hex(),
    "hex in upper case": lambda text: text.encode().hex().upper(),
    "hex with spaces": lambda text: text.encode().hex(" "),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "url-safe base64": lambda text: base64.urlsafe_b64encode(f"x{text}".encode()).decode(),
    "header": lambda text: "Basic " + base64.b64encode(f"{USER}:{text}".encode()).decode(),
    "header in two lines": lambda text: base64.encodebytes(f"{USER}:{text}".encode()).decode(),
}


def pieces(form: str) -> set[str]:
    """Return what must not be left of a form."""
    return {form[start : start + 12] for start in range(len(form) - 11)}


@pytest.mark.parametrize("name", ECHOES)
def test_an_echo_gives_nothing_away(name: str) -> None:
    """Whatever form the server gives the token: no dozen of its characters in a row, whatever is between them."""
    echo = ECHOES[name](TOKEN)
    shown = harmless_text(f"denied: {echo} go away".encode(), SECRETS)

    for kept in (shown, "".join(filter(str.isalnum, shown))):
        assert not [piece for piece in pieces("".join(filter(str.isalnum, echo))) if piece.lower() in kept.lower()]
    assert shown.isprintable()


@pytest.mark.parametrize("name", ECHOES)
def test_the_echo_would_be_shown(name: str) -> None:
    """Negative control: without a secret the same text is shown."""
    assert harmless_text(f"denied: {ECHOES[name](TOKEN)}"[:150].encode(), ("", "")).startswith("denied: ")


def test_plain_text_stays() -> None:
    """What has no secret in it stays as it is, user names that are words included."""
    text = "git upload-pack: not our ref " + "1" * 40

    assert harmless_text(text.encode(), ("git", TOKEN)) == text
    assert harmless_text(b"a" * 300, SECRETS) == "a" * REMOTE_TEXT_CHARACTERS
    assert harmless_text("né\tà\r\n\r\nla ligne\n".encode(), SECRETS) == "né à la ligne"
    assert harmless_text(b"\xff\x00x", SECRETS) == "\ufffd x"


def test_short_secrets() -> None:
    """A password too short to be told from words takes the whole text with it."""
    assert harmless_text(b"the password is abc", ("git", "abc")) == ""
    assert harmless_text(b"nothing here", ("git", "abc")) == "nothing here"


def test_a_token_at_the_end_is_masked_before_the_text_is_cut() -> None:
    """No part of it is left where it would stand on both sides of the cut."""
    assert harmless_text(b"x" * 190 + TOKEN.encode(), SECRETS) == "x" * 190 + "***"


def test_error() -> None:
    """The sentence names what was said; without anything to say it tells what to do."""
    assert remote_error(b"busy\n", SECRETS).message == "The Git host reported an error: busy"
    assert remote_error(b"\n", SECRETS).message.startswith("The Git host reported an error; check the URL")
    assert remote_error(b"", SECRETS).fields == {}


@given(text=st.binary(max_size=600), secrets=st.tuples(st.text(max_size=20), st.text(max_size=40)))
def test_any_text_ends_up_short_and_printable(text: bytes, secrets: tuple[str, str]) -> None:
    """Whatever a server sends: one short printable line."""
    shown = harmless_text(text, secrets)

    assert len(shown) <= REMOTE_TEXT_CHARACTERS
    assert shown.isprintable()
