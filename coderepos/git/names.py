"""Which names of tree entries are refused, left out or written.

Git refuses ``.git`` in the spellings that NTFS takes for it, and links in the place of ``.gitmodules``, on every system
(``verify_path()`` in read-cache.c). Two rules are our own, and stricter: spellings that HFS+ takes for ``.git``, which
Git refuses on macOS and ``git fsck`` everywhere, and a slash inside of one name, which only ``git fsck`` refuses.
"""

from __future__ import annotations

import re
import stat

from coderepos.exceptions import UnsafeRepository

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container
    from typing import Final

NAME_BYTES: Final = 255
"""Longest name of a file on Linux."""

HEAD: Final = b"HEAD"

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

# is_ntfs_dotgitmodules() of Git: the name, its short name, or a short name of the second kind, which begins with a part
# of a hash; then dots and spaces, then the end or a stream.
_GITMODULES: Final = re.compile(
    rb"(?:\A|\\)(?:\.gitmodules|gitmod~[1-4]|%s)[ .]*(?:\Z|:)"
    % b"|".join(b"%s~[1-9][0-9]{%d}" % (b"gi7eba"[:length], 6 - length) for length in range(7)),
    re.IGNORECASE,
)


def check_name(name: bytes, mode: int = stat.S_IFREG) -> None:
    """Refuse a name that could lead out of its folder or stand for Git's own data.

    :param mode: of the entry: a symbolic link may be called less than a file.
    :raises UnsafeRepository: it is empty, ``.``, ``..``, holds a slash, is ``.git`` to some file system, or that of a
        link in the place of ``.gitmodules``.
    """
    if name in (b"", b".", b".."):
        raise UnsafeRepository(reason="empty or dotted name")
    if b"/" in name:
        raise UnsafeRepository(reason="slash in a name")
    # Every spelling has one of these: most names need no closer look.
    if (b"g" in name or b"G" in name) and (is_ntfs_dot_git(name) or is_hfs_dot_git(name)):
        raise UnsafeRepository(reason="name of the Git folder")
    if stat.S_ISLNK(mode) and _GITMODULES.search(name):
        raise UnsafeRepository(reason="link named .gitmodules")


def check_name_above_link(name: bytes) -> None:
    """Refuse the name of a directory in which Git refuses symbolic links.

    :raises UnsafeRepository: it is ``.gitmodules``; Git looks at every part of a link's path.
    """
    found = _GITMODULES.search(name)
    if found and (name.lower() == b".gitmodules" or found[0].endswith(b":")):
        raise UnsafeRepository(reason="link named .gitmodules")


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


def is_git_directory(names: Container[bytes]) -> bool:
    """Whether Git may take a folder with these names for a repository: ``is_git_directory()`` in its setup.c.

    It looks for ``HEAD``, and for ``refs`` and ``objects`` beside it or where the file ``commondir`` says. The objects
    may be elsewhere too, where ``GIT_OBJECT_DIRECTORY`` says, so they count for nothing here; nor does what ``HEAD``
    holds, as long as it is not a folder.
    """
    return HEAD in names and (b"refs" in names or b"commondir" in names)
