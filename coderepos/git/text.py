"""The one place that turns bytes of Git data into text that may leave the engine.

Inside, names are bytes. What people, logs, databases and JSON get is printable UTF-8: whatever does not print is
escaped, so that no name can move the cursor, turn the direction of writing, hide itself or break a column of text.
"""

from __future__ import annotations

from typing import Final

MOST_CHARACTERS: Final = 1_000
"""Longest text that is made of a name or a path."""

# Code points that print as nothing although they count as letters or marks: Default_Ignorable_Code_Point of the Unicode
# Character Database, as far as str.isprintable() lets them pass.
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


def display_text(raw: bytes, *, most_characters: int = MOST_CHARACTERS) -> str:
    r"""Return bytes as text that :func:`is_display_text` accepts.

    Bytes that are not UTF-8 and ASCII control characters become ``\xNN``, other characters that do not print ``\uNNNN``
    or ``\UNNNNNNNN``: controls of C1, of direction and of width, separators, private and unassigned code points.
    """
    text = raw[: most_characters * 4].decode("utf-8", "surrogateescape")
    return "".join(map(_escaped, text))[:most_characters]


def is_display_text(text: str) -> bool:
    """Whether all characters print: then the text is valid UTF-8 without U+0000 too."""
    return text.isprintable() and _INVISIBLE.isdisjoint(text)


def _escaped(char: str) -> str:
    if is_display_text(char):
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # what surrogateescape makes of a byte
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def display_ref(text: str) -> str:
    """Return the whole of a ref name, given as it travels between the children, as text that may be shown."""
    raw = ref_bytes(text)
    return display_text(raw, most_characters=len(raw) * 4)


def ref_bytes(text: str) -> bytes:
    """Return the ref name that travelled between the children as text (``surrogateescape``): no byte is lost.

    :raises ValueError: it has surrogates that stand for no byte.
    """
    return text.encode("utf-8", "surrogateescape")
