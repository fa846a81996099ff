"""Repositories made on the spot, without any ``git`` program."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dulwich.objects import Blob, Commit, ObjectID, ShaFile, Tag, Tree
from dulwich.refs import Ref
from dulwich.repo import Repo

FILE: Final = 0o100644
EXECUTABLE: Final = 0o100755
SYMLINK: Final = 0o120000
DIRECTORY: Final = 0o040000

AUTHOR: Final = b"Ada Lovelace <ada@example.org>"
FIRST_COMMIT_AT: Final = 1_700_000_000
SECONDS_BETWEEN_COMMITS: Final = 3 * 3600

Files = dict[str, tuple[int, Blob]]


@dataclass(frozen=True)
class Figures:
    """What a repository holds, for the demo to tell."""

    commits: int
    branches: int
    tags: int


def make_shop(path: Path, *, commits: int = 400, photos: int = 8) -> Figures:
    """Make a bare repository like those that people have: a history, branches, a tag, a symlink, an executable.

    :param photos: files of 1 MiB that do not compress, so that receiving them takes a moment.
    """
    history = _History(path)
    files: Files = {
        "README.md": (FILE, Blob.from_string(b"# The shop\n\nSells things.\n")),
        "LATEST": (SYMLINK, Blob.from_string(b"docs/manual.md")),
        "bin/serve": (EXECUTABLE, Blob.from_string(b'#!/bin/sh\nexec python -m shop "$@"\n')),
        "docs/manual.md": (FILE, Blob.from_string(b"# Manual\n")),
    }
    for number in range(photos):
        files[f"photos/{number:02}.jpg"] = (FILE, _incompressible(number))

    tip = history.commit(files, "Open the shop", parents=[])
    release = tip
    for number in range(1, commits):
        name = f"shop/module_{number % 23:02}.py"
        lines = "".join(f"def price_{line}() -> int:\n    return {line * number}\n\n\n" for line in range(12))
        files[name] = (FILE, Blob.from_string(f'"""Revision {number}."""\n\n\n{lines}'.encode()))
        tip = history.commit(files, f"Revise the prices, take {number}", parents=[tip])
        if number == commits * 3 // 4:
            release = tip
    files["shop/basket.py"] = (FILE, Blob.from_string(b'"""Not finished."""\n'))
    basket = history.commit(files, "Begin the basket", parents=[tip])

    history.publish({"main": tip, "release/1.0": release, "feature/basket": basket}, tags={"v1.0": release})
    return Figures(commits=commits + 1, branches=3, tags=1)


def make_oversized(path: Path, *, size_mib: int) -> None:
    """Make a bare repository of one commit whose pack is ``size_mib`` large, since nothing in it compresses."""
    history = _History(path)
    files: Files = {f"part-{number:03}.bin": (FILE, _incompressible(number)) for number in range(size_mib)}

    history.publish({"main": history.commit(files, "Add the data set", parents=[])}, tags={})


def _incompressible(seed: int) -> Blob:
    return Blob.from_string(hashlib.shake_256(b"%d" % seed).digest(2**20))


class _History:
    """Collects objects and writes them as one pack."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._objects: dict[ObjectID, ShaFile] = {}
        self._commits = 0

    def commit(self, files: Files, message: str, *, parents: Sequence[ObjectID]) -> ObjectID:
        """Add a commit of all ``files`` and return its id."""
        commit = Commit()
        commit.tree = self._tree(files)
        commit.parents = list(parents)
        commit.author = commit.committer = AUTHOR
        commit.author_time = commit.commit_time = FIRST_COMMIT_AT + self._commits * SECONDS_BETWEEN_COMMITS
        commit.author_timezone = commit.commit_timezone = 0
        commit.message = message.encode() + b"\n"
        self._commits += 1
        return self._add(commit)

    def publish(self, branches: dict[str, ObjectID], *, tags: dict[str, ObjectID]) -> None:
        """Write the repository with these branches, ``main`` its default, and annotated tags."""
        refs = {f"refs/heads/{name}": commit for name, commit in branches.items()}
        for name, commit in tags.items():
            tag = Tag()
            tag.name = name.encode()
            tag.object = (Commit, commit)
            tag.tagger = AUTHOR
            tag.tag_time, tag.tag_timezone = FIRST_COMMIT_AT, 0
            tag.message = b"The first release\n"
            refs[f"refs/tags/{name}"] = self._add(tag)

        with Repo.init_bare(self._path, mkdir=True) as repository:
            repository.object_store.add_objects([(entry, None) for entry in self._objects.values()])
            for ref, target in refs.items():
                repository.refs[Ref(ref.encode())] = target
            repository.refs.set_symbolic_ref(Ref(b"HEAD"), Ref(b"refs/heads/main"))

    def _tree(self, files: Files) -> ObjectID:
        tree, directories = Tree(), dict[str, Files]()
        for path, (mode, blob) in files.items():
            directory, _, rest = path.partition("/")
            if rest:
                directories.setdefault(directory, {})[rest] = (mode, blob)
            else:
                tree.add(path.encode(), mode, self._add(blob))
        for directory, content in directories.items():
            tree.add(directory.encode(), DIRECTORY, self._tree(content))
        return self._add(tree)

    def _add(self, entry: ShaFile) -> ObjectID:
        self._objects[entry.id] = entry
        return entry.id
