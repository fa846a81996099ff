"""Turns bytes of Git data into text that may be shown, logged or stored.

Inside the engine, names are bytes. Everywhere else they are printable UTF-8, with everything else escaped, so that no
name can move the cursor, change the writing direction, be invisible or break a column of text.
"""

from __future__ import annotations

from typing import Final

MAX_CHARACTERS: Final = 1_000
"""Longest text for a name or a path."""

# Invisible code points that str.isprintable() accepts: some of Default_Ignorable_Code_Point in the Unicode Character
# Database.
_INVISIBLE: Final = frozenset(
    map(
        chr,
        (
            0x034F,
            *range(0x115F, 0x1161),
            *range(0x17B4, 0x17B6),
            *range(0x180B, 0x1810),
            0x3164,
            *range(0xFE00, 0xFE10),
            0xFFA0,
            *range(0xE0100, 0xE01F0),
        ),
    )
)


def display_text(raw: bytes, *, max_characters: int = MAX_CHARACTERS) -> str:
    r"""Return bytes as text that :func:`is_display_text` accepts.

    Bytes that are not UTF-8 and ASCII control characters become ``\xNN``, other characters that do not print ``\uNNNN``
    or ``\UNNNNNNNN``: controls of C1, of direction and of width, separators, private and unassigned code points.
    """
    text = raw[: max_characters * 4].decode("utf-8", "surrogateescape")
    return "".join(map(_escaped, text))[:max_characters]


def is_display_text(text: str) -> bool:
    """Return whether all characters are printable, which implies valid UTF-8 without U+0000."""
    return text.isprintable() and _INVISIBLE.isdisjoint(text)


def _escaped(char: str) -> str:
    if is_display_text(char):
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def display_ref(text: str) -> str:
    """Return a whole ref name from a message between the processes as text that may be shown."""
    raw = ref_bytes(text)
    return display_text(raw, max_characters=len(raw) * 4)


def ref_bytes(text: str) -> bytes:
    """Return the bytes of a ref name from a message between the processes, which is decoded with ``surrogateescape``.

    :raises ValueError: it has surrogates that do not stand for bytes.
    """
    return text.encode("utf-8", "surrogateescape")
