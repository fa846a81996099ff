"""Which names of tree entries are refused, left out or written.

Git refuses ``.git`` in any spelling that some file system takes for it (``verify_path`` and ``fsck``), whatever the
system at hand; so does this.
"""

from __future__ import annotations

from coderepos.exceptions import UnsafeRepository

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

NAME_BYTES: Final = 255
"""Longest name of a file on Linux."""

# Code points that HFS+ ignores when it compares names: path.c and utf8.c of Git.
_HFS_IGNORED: Final = dict.fromkeys(
    (
        *range(0x200C, 0x2010),
        *range(0x202A, 0x202F),
        *range(0x206A, 0x2070),
        0xFEFF,
    )
)

_CONTROL: Final = bytes((*range(32), 127))


def check_name(name: bytes) -> None:
    """Refuse a name that Git refuses.

    :raises UnsafeRepository: it is empty, ``.``, ``..``, holds a slash, or is ``.git`` to some file system.
    """
    if name in (b"", b".", b".."):
        raise UnsafeRepository(reason="empty or dotted name")
    if b"/" in name:
        raise UnsafeRepository(reason="slash in a name")
    # Every spelling has one of these: most names need no closer look.
    if (b"g" in name or b"G" in name) and (is_ntfs_dot_git(name) or is_hfs_dot_git(name)):
        raise UnsafeRepository(reason="name of the Git folder")


def is_ntfs_dot_git(name: bytes) -> bool:
    """Would NTFS open ``.git`` by this name?

    It ignores case, trailing dots and spaces, and what follows a colon; ``git~1`` is the short name. What follows a
    backslash is a name of its own there.
    """
    return any(part.split(b":", 1)[0].rstrip(b". ").lower() in (b".git", b"git~1") for part in name.split(b"\\"))


def is_hfs_dot_git(name: bytes) -> bool:
    """Would HFS+ open ``.git`` by this name?

    It ignores case and invisible code points; like Git, this takes malformed UTF-8 for the end of the name.
    """
    try:
        text = name.decode()
    except UnicodeDecodeError as error:
        text = name[: error.start].decode()
    return text.translate(_HFS_IGNORED).lower() in (".git", "git~1")


def is_writable(name: bytes) -> bool:
    """Can this name be written and later be shown without harm: at most 255 bytes, none of them a control byte?"""
    return len(name) <= NAME_BYTES and len(name.translate(None, _CONTROL)) == len(name)


def printable(path: bytes, *, most_characters: int = 1_000) -> str:
    """Return a path as text in which whatever does not print is escaped."""
    text = path[:most_characters].decode("utf-8", "backslashreplace")
    escaped = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return escaped[:most_characters]
