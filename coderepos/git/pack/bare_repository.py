"""Writes the bare repository around the pack: what ``git --git-dir`` needs, and nothing that names the remote.

Layout: gitrepository-layout(5), without hooks, remotes, reflogs and staging index.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Final
from zlib import compress

from coderepos.git.descriptors import write_all
from coderepos.git.pack.pack_file import EMPTY_TREE
from coderepos.git.pack.published_refs import PublishedRefs

NAME: Final = "git"

PACK_DIRECTORY: Final = f"{NAME}/objects/pack"

INCOMING_PACK: Final = f"{PACK_DIRECTORY}/incoming.pack"

_DIRECTORIES: Final = (NAME, f"{NAME}/objects", PACK_DIRECTORY, f"{NAME}/refs")
CONFIG: Final = b"[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class BareRepository:
    """A bare repository that is being written.

    :param incoming: descriptor of the directory in which it is created.
    :param group_readable: whether the group may read it.
    """

    def __init__(self, incoming: int, *, group_readable: bool) -> None:
        self._incoming: Final = incoming
        self._file_mode: Final = 0o440 if group_readable else 0o400
        self._directory_mode: Final = 0o550 if group_readable else 0o500
        self._directories: Final = list(_DIRECTORIES)
        for directory in _DIRECTORIES:
            os.mkdir(directory, 0o700, dir_fd=incoming)

    def open_pack(self) -> int:
        """Create the pack file and return a descriptor for reading and writing; :meth:`name_pack` gives it its name."""
        return os.open(INCOMING_PACK, _NEW_FILE, self._file_mode, dir_fd=self._incoming)

    def write_index(self, trailer: bytes, index: bytes) -> None:
        """Write the index of the pack; what a failed second process left of it is replaced.

        :param trailer: SHA-1 of the pack.
        """
        name = f"{_pack_name(trailer)}.idx"
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._incoming)
        self._write(name, index)

    def name_pack(self, trailer: bytes) -> None:
        """Give the pack the name that matches its index."""
        name = f"{_pack_name(trailer)}.pack"
        os.rename(INCOMING_PACK, name, src_dir_fd=self._incoming, dst_dir_fd=self._incoming)

    def add_refs(self, refs: PublishedRefs, shallow: Sequence[str]) -> int:
        """Write HEAD, config, refs and the list of shallow commits; return their size in bytes.

        :param shallow: ids of the commits whose parents are missing.
        """
        head = b"ref: " + refs.branch if refs.branch else refs.commit_id.encode()
        written = self._write(f"{NAME}/HEAD", head + b"\n")
        written += self._write(f"{NAME}/config", CONFIG)
        lines = [b"# pack-refs with: peeled fully-peeled sorted \n"]
        for name in sorted(refs.ids):
            lines.append(b"%s %s\n" % (refs.ids[name].encode(), name))
            if name in refs.peeled:
                lines.append(b"^%s\n" % refs.peeled[name].encode())
        written += self._write(f"{NAME}/packed-refs", b"".join(lines))
        if shallow:
            written += self._write(f"{NAME}/shallow", "".join(f"{one}\n" for one in sorted(shallow)).encode())
        return written

    def add_empty_tree(self) -> int:
        """Write the empty tree, which ``git fsck`` misses although Git needs no copy; return its size in bytes."""
        directory, name = f"{NAME}/objects/{EMPTY_TREE[:1].hex()}", EMPTY_TREE[1:].hex()
        os.mkdir(directory, 0o700, dir_fd=self._incoming)
        self._directories.append(directory)
        return self._write(f"{directory}/{name}", compress(b"tree 0\0"))

    def finish(self) -> None:
        """Make the directories read-only."""
        for directory in reversed(self._directories):
            descriptor = os.open(directory, _DIRECTORY, dir_fd=self._incoming)
            try:
                os.fchmod(descriptor, self._directory_mode)
            finally:
                os.close(descriptor)

    def _write(self, path: str, content: bytes) -> int:
        descriptor = os.open(path, _NEW_FILE, self._file_mode, dir_fd=self._incoming)
        try:
            write_all(descriptor, content)
        finally:
            os.close(descriptor)
        return len(content)


def _pack_name(trailer: bytes) -> str:
    return f"{PACK_DIRECTORY}/pack-{trailer.hex()}"
