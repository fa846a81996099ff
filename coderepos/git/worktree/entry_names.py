"""Decides which names of tree entries are refused, skipped or written.

Git refuses ``.git`` in the spellings that NTFS takes for it, and links in the place of ``.gitmodules``, on every system
(``verify_path()`` in read-cache.c). Two rules are stricter: spellings that HFS+ takes for ``.git``, which Git refuses
on macOS and ``git fsck`` everywhere, and a slash inside a name, which only ``git fsck`` refuses.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Container
from hashlib import sha1
from typing import Final

from coderepos.exceptions import UnsafeRepository

NAME_BYTES: Final = 255
"""Longest name of a file on Linux."""

HEAD: Final = b"HEAD"

_MAX_NAME_IN_MEMORY_BYTES: Final = 400
_DOT_GIT: Final = ((b".", b"g", b"i", b"t"), (b"g", b"i", b"t", b"~", b"1"))

_NTFS_DOT_GIT: Final = re.compile(rb"(?:\A|\\)(?:\.git|git~1)[. ]*+(?:\Z|[:\\])", re.IGNORECASE)

# Code points that HFS+ ignores when it compares names: path.c and utf8.c of Git. U+200C to U+200F, U+202A to U+202E,
# U+206A to U+206F, U+FEFF.
_HFS_IGNORED: Final = rb"(?:\xe2\x80[\x8c-\x8f\xaa-\xae]|\xe2\x81[\xaa-\xaf]|\xef\xbb\xbf)*+"
_HFS_DOT_GIT: Final = re.compile(
    b"|".join(_HFS_IGNORED + b"".join(re.escape(char) + _HFS_IGNORED for char in spelling) for spelling in _DOT_GIT),
    re.IGNORECASE,
)
_CHARACTER_BYTES: Final = 4  # longest in UTF-8

_PLAIN: Final = re.compile(r"[0-9A-Za-z_+=@%,-][0-9A-Za-z_+=@%,. ()-]{0,254}\Z")

_CONTROL: Final = bytes((*range(32), 127))

# is_ntfs_dotgitmodules() of Git: the name, its short name, or a fallback short name, which begins with part of a hash;
# then dots and spaces, then the end or an alternate data stream.
_GITMODULES: Final = re.compile(
    rb"(?:\A|\\)(?:\.gitmodules|gitmod~[1-4]|%s)[ .]*(?:\Z|:)"
    % b"|".join(b"%s~[1-9][0-9]{%d}" % (b"gi7eba"[:length], 6 - length) for length in range(7)),
    re.IGNORECASE,
)


def check_name(name: bytes, mode: int = stat.S_IFREG) -> None:
    """Refuse a name that could lead out of its directory or stand for Git's own data.

    :param mode: mode of the entry: fewer names are allowed for a symbolic link.
    :raises UnsafeRepository: it is empty, ``.``, ``..``, holds a slash, is ``.git`` to some file system, or that of a
        link in the place of ``.gitmodules``.
    """
    if name in (b"", b".", b".."):
        raise UnsafeRepository(reason="empty or dotted name")
    if b"/" in name:
        raise UnsafeRepository(reason="slash in a name")
    # Every spelling has one of these: most names need no closer look.
    if (b"g" in name or b"G" in name) and (is_ntfs_dot_git(name) or is_hfs_dot_git(name)):
        raise UnsafeRepository(reason="name of the Git directory")
    if stat.S_ISLNK(mode) and _GITMODULES.search(name):
        raise UnsafeRepository(reason="link named .gitmodules")


def check_name_above_link(name: bytes) -> None:
    """Refuse the name of a directory in which Git refuses symbolic links.

    :raises UnsafeRepository: it is ``.gitmodules``; Git looks at every part of a link's path.
    """
    found = _GITMODULES.search(name)
    if found and (name.lower() == b".gitmodules" or found[0].endswith(b":")):
        raise UnsafeRepository(reason="link named .gitmodules")


def is_plain(name: str) -> bool:
    """Return whether a name is so common that no other function here has anything against it, whatever it names.

    It has none of the bytes that spellings of ``.git`` and ``.gitmodules`` need, and is not ``.`` or ``..``.
    """
    return bool(_PLAIN.match(name))


def is_ntfs_dot_git(name: bytes) -> bool:
    """Return whether NTFS would open ``.git`` by this name.

    It ignores case, trailing dots and spaces, and what follows a colon; ``git~1`` is the short name. What follows a
    backslash is a name of its own there.
    """
    return bool(_NTFS_DOT_GIT.search(name))


def is_hfs_dot_git(name: bytes) -> bool:
    """Return whether HFS+ would open ``.git`` by this name.

    It ignores case and invisible code points; like Git, this takes malformed UTF-8 for the end of the name.
    """
    found = _HFS_DOT_GIT.match(name)
    if not found:
        return False
    try:
        return not name[found.end() : found.end() + _CHARACTER_BYTES].decode()
    except UnicodeDecodeError as error:
        return error.start == 0


def shortened(name: bytes) -> bytes:
    """Return a name, or the start and a hash of one that is far too long to be written, to save memory."""
    if len(name) <= _MAX_NAME_IN_MEMORY_BYTES:
        return name
    return name[:_MAX_NAME_IN_MEMORY_BYTES] + b"~" + sha1(name, usedforsecurity=False).hexdigest().encode()


def is_writable(name: bytes) -> bool:
    """Return whether this name is at most 255 bytes long and has no control bytes."""
    return len(name) <= NAME_BYTES and len(name.translate(None, _CONTROL)) == len(name)


def is_git_directory(names: Container[bytes]) -> bool:
    """Return whether Git may take a directory with these entries for a repository.

    ``is_git_directory()`` in Git's setup.c requires ``HEAD``, and ``refs`` and ``objects`` beside it or where the file
    ``commondir`` points. Objects may be anywhere, by ``GIT_OBJECT_DIRECTORY``, so they are not required here; nor does
    the content of ``HEAD`` matter, as long as it is not a directory.
    """
    return HEAD in names and (b"refs" in names or b"commondir" in names)
