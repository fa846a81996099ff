"""Compares clones with those of git: ``python -m tests.fuzz.clones --seconds 150``.

Random repositories are served by ``git http-backend`` in both protocols; what we publish of one, at any depth and ref,
has to be what git makes of the same server: the working tree byte for byte but for the documented substitutions, HEAD,
history and tags.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coderepos.exceptions import CodeReposError, UnsafeRepository
from coderepos.git.clone import CloneRequest, clone
from coderepos.git.limits import Limits
from coderepos.sandbox.removal import remove_tree
from tests.fuzz.random_repositories import EMPTY_TREE, RandomRepository
from tests.support.git import git_run
from tests.support.reference_git import Listing, listing
from tests.support.servers.git_http_backend import GitServer

DEPTHS: Final = (None, None, 1, 2, 4)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What is asked of a server."""

    protocol_v2: bool
    depth: int | None
    kind: str
    """``default``, ``branch``, ``tag`` or ``commit``."""

    ref: bytes
    """Full name, commit id, or empty for the default branch."""


def variants(repository: RandomRepository, chance: random.Random, count: int) -> Iterator[Variant]:
    """Yield what to ask for, the default branch among it."""
    branches = set(repository.branches)
    choices = {
        "branch": [name for name in repository.branches if is_text(name)],
        # ``git clone --branch`` takes the branch where both have the name.
        "tag": [
            name for name in repository.tags if is_text(name) and name.replace(b"tags", b"heads", 1) not in branches
        ],
        "commit": [one.encode() for one in repository.commits],
    }
    possible = [kind for kind, refs in choices.items() if refs]
    for number in range(count):
        kind = chance.choice(possible) if number else "default"
        yield Variant(
            protocol_v2=chance.random() < 0.5,
            depth=chance.choice(DEPTHS),
            kind=kind,
            ref=chance.choice(choices[kind]) if kind != "default" else b"",
        )


def is_text(name: bytes) -> bool:
    """Whether a user could type this name."""
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def difference(server: GitServer, url: str, variant: Variant, folder: Path) -> str:
    """Clone once with git and once with our own processes; return what differs, nothing where all is the same."""
    server.protocol_v2 = variant.protocol_v2
    theirs, ours = folder / "theirs", folder / "ours"
    refusal = cloned_by_git(url, variant, theirs)
    if refusal and "error: invalid path" not in refusal:
        return f"git fails: {refusal}"
    ours.mkdir(mode=0o700)
    request = CloneRequest(
        url=url,
        credentials=None,
        ref=variant.ref.decode(),
        depth=variant.depth,
        policy=server.policy(),
        limits=Limits(),
        min_level=1,
        group_readable=False,
    )
    try:
        report = clone(request, incoming=ours, on_progress=lambda _progress: None)
    except CodeReposError as error:
        both = refusal and isinstance(error, UnsafeRepository)
        return "" if both else f"we refuse: {error.code} {error.fields}; git: {refusal or 'clones'}"
    if refusal:
        return f"git refuses, we do not: {refusal}"
    expected, found = substituted(theirs), listing(ours / "tree")
    for path in sorted({*expected, *found}):
        if expected.get(path) != found.get(path):
            return f"{path!r}: git has {expected.get(path)!r:.200}, we have {found.get(path)!r:.200}"
    for what, arguments in (
        ("HEAD", ("rev-parse", "HEAD")),
        ("history", ("rev-list", "--parents", "HEAD")),
        ("objects", ("rev-list", "--objects", "HEAD")),
        ("branch", ("symbolic-ref", "-q", "HEAD")),
    ):
        if variant.kind == "commit" and what == "branch":
            continue
        if (git := asked(theirs / ".git", *arguments)) != (own := asked(ours / "git", *arguments)):
            return f"{what}: git has {git[:300]!r}, we have {own[:300]!r}"
    if report.build.commit_id != asked(theirs / ".git", "rev-parse", "HEAD").strip().decode():
        return "the report names another commit"
    return refs_difference(theirs, ours, variant)


def cloned_by_git(url: str, variant: Variant, folder: Path) -> str:
    """Clone with git; return what it says where it fails."""
    depth = [f"--depth={variant.depth}"] if variant.depth else []
    if variant.kind == "commit":
        git_run("init", "--quiet", folder)
        done = git_run("fetch", "--quiet", *depth, url, variant.ref, cwd=folder)
        if not done.returncode:
            done = git_run("checkout", "--quiet", "--detach", "FETCH_HEAD", cwd=folder)
    else:
        name = variant.ref.removeprefix(b"refs/heads/").removeprefix(b"refs/tags/")
        if variant.kind != "default":
            depth.append(f"--branch={name.decode()}")
        done = git_run("clone", "--quiet", "--single-branch", *depth, url, folder)
    return done.stderr.decode(errors="replace") if done.returncode else ""


def asked(git_dir: Path, *arguments: str) -> bytes:
    """Return what git prints about a repository."""
    return git_run(f"--git-dir={git_dir}", *arguments).stdout


def substituted(folder: Path) -> Listing:
    """Return what git checked out with the substitutions of docs/how-it-works.md."""
    made = listing(folder)
    result: Listing = {}
    names = {path for path in made if b"/" not in path}
    is_repository = b"HEAD" in names and made[b"HEAD"][0] != "directory" and bool(names & {b"refs", b"commondir"})
    for path, (kind, content) in made.items():
        if any(byte < 32 or byte == 127 for byte in path) or (is_repository and path == b"HEAD"):
            continue
        if kind == "link" and leaves(os.fsencode(folder), path, content):
            result[path] = ("file", content)
        else:
            result[path] = (kind, content)
    return result


def leaves(top: bytes, path: bytes, target: bytes) -> bool:
    """Whether a link leads out of the tree, or round in a circle, as the file system of git's own clone sees it."""
    place = os.path.join(top, path)
    try:
        os.path.realpath(place, strict=True)
    except FileNotFoundError:
        # Of what is not there the names count, so these may lead round in a circle too.
        for _ in range(41):
            if not os.path.islink(place):
                break
            place = os.path.normpath(os.path.join(os.path.dirname(place), os.readlink(place)))
        else:
            return True
        place = os.path.join(top, path)
    except NotADirectoryError:
        pass
    except OSError:
        return True  # ELOOP
    if target.startswith(b"/"):
        return True
    real = os.path.realpath(place)
    return real != top and not real.startswith(top + b"/")


def refs_difference(theirs: Path, ours: Path, variant: Variant) -> str:
    """Return what is wrong with our refs: tags are git's, and otherwise there is the one branch."""
    found = set(asked(ours / "git", "for-each-ref", "--format=%(objectname) %(*objectname) %(refname)").splitlines())
    tags = {line for line in found if b" refs/tags/" in line}
    expected = set(
        asked(
            theirs / ".git", "for-each-ref", "--format=%(objectname) %(*objectname) %(refname)", "refs/tags/"
        ).splitlines()
    )
    # Git has the empty tree built in, so it keeps tags of it that did not come along.
    tags, expected = ({one for one in lines if EMPTY_TREE.encode() not in one} for lines in (tags, expected))
    if variant.kind != "commit" and tags != expected:
        return f"tags: git has {sorted(expected - tags)}, we have {sorted(tags - expected)}"
    others = [line for line in found if b" refs/tags/" not in line]
    is_branch = variant.kind in ("default", "branch")
    if len(others) != is_branch or not all(line.split(b" ", 2)[2].startswith(b"refs/heads/") for line in others):
        return f"refs: {sorted(others)}"
    checked = git_run(f"--git-dir={ours / 'git'}", "fsck", "--connectivity-only", "--no-dangling")
    if checked.returncode or checked.stdout or checked.stderr:
        return f"git fsck: {checked.stdout.decode(errors='replace')}{checked.stderr.decode(errors='replace')}"
    return ""


def compare(*, seconds: float, seed: int, clones: int = 6) -> tuple[int, str]:
    """Make repositories and compare clones of them until the time is over; return how many, and what differed."""
    ends, compared = time.monotonic() + seconds, 0
    while not compared or time.monotonic() < ends:
        with _Folder() as name:
            folder = Path(name)
            repository = RandomRepository(folder / "served/repository.git", seed)
            with GitServer(folder / "served") as server:
                chance = random.Random(seed)
                for number, variant in enumerate(variants(repository, chance, clones)):
                    place = folder / f"{number}"
                    place.mkdir()
                    if wrong := difference(server, server.url("repository.git"), variant, place):
                        return compared, f"--seed {seed}, {variant}: {wrong}"
                    compared += 1
                    if time.monotonic() > ends:
                        break
        seed += 1
    return compared, ""


class _Folder:
    """A folder for the length of a ``with`` block, read-only clones in it included."""

    def __enter__(self) -> str:
        self._name = tempfile.mkdtemp(prefix="coderepos-clones-")
        return self._name

    def __exit__(self, *error: object) -> None:
        parent = os.open(os.path.dirname(self._name), os.O_RDONLY)
        try:
            remove_tree(os.path.basename(self._name), parent=parent)
        finally:
            os.close(parent)


def main(arguments: list[str] | None = None) -> int:
    """Compare for some time, tell what came of it, and return 1 where something differed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="python -m tests.fuzz.clones")
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    given = parser.parse_args(arguments)
    print(f"Seed {given.seed}", flush=True)
    compared, wrong = compare(seconds=given.seconds, seed=given.seed)
    print(wrong or f"{compared:,} clones are those of git")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
