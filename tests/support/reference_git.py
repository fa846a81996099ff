"""The real git as the reference: what it checks out of objects that it would never write itself."""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Iterable
from pathlib import Path

from coderepos.git.wire import BuildReport
from tests.support import packs
from tests.support.build_child import built_of
from tests.support.git import git_run
from tests.support.packs import Object

Listing = dict[bytes, tuple[str, bytes]]
"""Kind and content of everything in a working tree by its path: ``file``, ``program``, ``link`` or ``directory``."""


def listing(folder: Path) -> Listing:
    """Return what is in a working tree, without the repository of its own that ``git clone`` puts there."""
    top, found = os.fsencode(folder), {}
    for at, directories, files in os.walk(top):
        if at == top and b".git" in directories:
            directories.remove(b".git")
        for name in (*directories, *files):
            path = os.path.join(at, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                kind, content = "link", os.readlink(path)
            elif stat.S_ISDIR(mode):
                kind, content = "directory", b""
            else:
                kind, content = "program" if mode & stat.S_IXUSR else "file", Path(os.fsdecode(path)).read_bytes()
            found[os.path.relpath(path, top)] = (kind, content)
    return found


def put(repository: Path, one: Object) -> None:
    """Write an object into a repository as a file, unlooked at."""
    path = repository / "objects" / one.id[:2] / one.id[2:]
    path.parent.mkdir(exist_ok=True)
    content = b"%s %d\0%s" % (one.kind.encode(), len(one.content), one.content)
    path.write_bytes(zlib.compress(content))


def repository_of(folder: Path, objects: Iterable[Object], refs: dict[str, str]) -> Path:
    """Make a bare repository of these objects and refs."""
    git_run("init", "--quiet", "--bare", "--initial-branch=main", folder)
    for one in objects:
        put(folder, one)
    for name, object_id in refs.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{object_id}\n")
    return folder


def cloned_by_git(folder: Path, objects: Iterable[Object], root: Object) -> tuple[int, Listing]:
    """Return the status of ``git clone`` of a commit of this tree, and what it checks out."""
    head = packs.commit(root)
    bare = repository_of(folder / "bare.git", [*objects, root, head], {"refs/heads/main": head.id})
    done = git_run("clone", "--quiet", "--no-local", bare, folder / "clone")
    return done.returncode, listing(folder / "clone") if (folder / "clone").exists() else {}


def cloned_by_us(folder: Path, objects: Iterable[Object], root: Object) -> tuple[BuildReport, Listing]:
    """Return the report of our own clone of a commit of this tree, and what it writes."""
    head = packs.commit(root)
    report = built_of(folder / "ours", [*objects, root, head], head)
    return report, listing(folder / "ours/tree")
