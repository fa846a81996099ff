"""Text that leaves the engine is printable UTF-8, and tells bytes and characters apart."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from coderepos.git.text import display_ref, display_text, is_display_text, ref_bytes


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"main", "main"),
        ("büro/日本語/e\u0301/💩".encode(), "büro/日本語/e\u0301/💩"),
        (b"back\\slash 'quote' <b>", "back\\slash 'quote' <b>"),
        (b"caf\xe9", "caf\\xe9"),
        (b"\xc3", "\\xc3"),
        (b"\xed\xa0\x80", "\\xed\\xa0\\x80"),
        (b"a\x00b\x1b[31m\r\n\t\x7f", "a\\x00b\\x1b[31m\\x0d\\x0a\\x09\\x7f"),
        ("\x85\x9b\u00ad".encode(), "\\u0085\\u009b\\u00ad"),
        ("\u202a\u202e\u2066\u2069\u200e\u200f\u061c".encode(), "\\u202a\\u202e\\u2066\\u2069\\u200e\\u200f\\u061c"),
        ("\u200b\u200d\ufeff\u2060\u3164\ufe0f\u034f".encode(), "\\u200b\\u200d\\ufeff\\u2060\\u3164\\ufe0f\\u034f"),
        ("\u2028\u2029\u00a0\u3000".encode(), "\\u2028\\u2029\\u00a0\\u3000"),
        ("\ue000\uffff\U000e0001\U0010ffff".encode(), "\\ue000\\uffff\\U000e0001\\U0010ffff"),
    ],
)
def test_what_does_not_print_is_escaped(raw: bytes, text: str) -> None:
    """A byte that is no UTF-8 looks otherwise than the character of the same number."""
    assert display_text(raw) == text
    assert is_display_text(text)


def test_every_character_is_shown_or_escaped() -> None:
    """No character of a category that hides, moves or turns text is shown, and what is shown can be stored anywhere."""
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        is_kept = is_display_text(char)
        kind = unicodedata.category(char)
        assert not (is_kept and (kind[0] == "C" or kind in ("Zl", "Zp") or (kind == "Zs" and char != " "))), hex(code)
        if not 0xD800 <= code <= 0xDFFF:
            shown = display_text(char.encode())
            assert shown == char if is_kept else shown.isascii(), hex(code)


def test_length_is_bounded_even_where_everything_is_escaped() -> None:
    """A path of 3,000 bytes cannot fill a report."""
    assert len(display_text(b"\xff" * 3_000)) == 1_000
    assert display_text(("é" * 3_000).encode()) == "é" * 1_000
    assert display_text("é".encode() * 3, max_characters=2) == "éé"


@pytest.mark.parametrize("text", ["\ud800", "a\udc80", "a\x00", "\u202e", "\n", "\ufe0f"])
def test_text_of_a_child_is_judged_by_the_same_rule(text: str) -> None:
    """What could not have come out of the function is not accepted."""
    assert not is_display_text(text)


def test_ref_names_travel_without_loss() -> None:
    """All bytes come back; text with surrogates that stand for no byte is refused."""
    raw = bytes(range(256)) + "é\u202e💩".encode()
    assert ref_bytes(raw.decode("utf-8", "surrogateescape")) == raw
    with pytest.raises(ValueError, match="surrogates"):
        ref_bytes("refs/heads/\ud800")
    assert display_ref("refs/heads/" + "\udce9" * 2_000) == "refs/heads/" + "\\xe9" * 2_000
