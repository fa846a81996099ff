"""Random repositories with whatever Git lets into one, most of it by ``git fast-import``."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.support import packs
from tests.support.git import ENVIRONMENT, git_run
from tests.support.packs import FILE, FOLDER, GITLINK, LINK, PROGRAM, Line, Object
from tests.support.reference_git import put

EMPTY_TREE: Final = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
POINTER: Final = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"

COMPONENTS: Final[Sequence[bytes]] = [
    *(b"a", b"b", b"dir", b"A", b"README", b"readme", b"-rf", b"con", b"x.git", b"...", b" ", b"a b", b"back\\slash"),
    *(b'quo"te', b"'", b"$(x)", b"*", b".gitignore", b".gitattributes", b".gitmodules", b"HEAD", b"refs", b"objects"),
    *(b"config", b"\xff\xfe", b"caf\xe9", "é".encode(), "e\u0301".encode(), "日本".encode(), "💩".encode()),
    *(
        "\u202ex".encode(),
        "z\u200b".encode(),
        b"\x01ctl",
        b"new\nline",
        b"tab\t",
        b"\x7f",
        b"n" * 255,
        b"~1",
        b"a.lock",
    ),
]
CONTENTS: Final[Sequence[bytes]] = [b"", b"text\n", b"\r\n\0\xff", b"ref: refs/heads/main\n", POINTER, b"x" * 70_000]
TARGETS: Final[Sequence[bytes]] = [
    *(
        b"a",
        b"b",
        b"dir",
        b"dir/a",
        b"./a",
        b"../a",
        b"../../a",
        b"dir/../a",
        b"missing",
        b"missing/../a",
        b".",
        b"..",
        b"/",
    ),
    *(b"/etc/passwd", b"a/", b"dir/", b"loop", b"../b/dir", b"caf\xe9", b"ref: refs/../../..", b"../../../../../etc"),
]
BRANCHES: Final = (b"main", b"dev", "büro".encode(), b"feat/a", b"caf\xe9", b"-x", b"HEAD", b"refs/heads/x", b"a.b")
TAGS: Final = (b"v1", b"v1.0", b"rel/1", b"caf\xe9", "früh".encode(), b"main", b"HEAD", b"-t", b"v2/x", b"x" * 200)


class RandomRepository:
    """A bare repository made by chance.

    :param seed: makes the same repository again.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.path: Final = folder
        self._chance: Final = random.Random(seed)
        self._stream: Final[list[bytes]] = []
        self._commits = 0
        git_run("init", "--quiet", "--bare", "--initial-branch=main", folder)
        for name in ("uploadpack.allowAnySHA1InWant", "uploadpack.allowFilter"):
            git_run(f"--git-dir={folder}", "config", name, "true")
        self._import_history()
        for make in self._chance.sample([self._odd_commit, self._tag_of_any, self._nested_tags, self._light_tags], k=3):
            make()
        self.branches: Final = self._names("refs/heads/")
        git_run(f"--git-dir={folder}", "symbolic-ref", "HEAD", self._chance.choice(self.branches))
        if self._chance.random() < 0.6:
            git_run(f"--git-dir={folder}", "repack", "-adq")
            git_run(f"--git-dir={folder}", "pack-refs", "--all")

    @property
    def tags(self) -> list[bytes]:
        """Full names of the tags that name commits."""
        return [
            name for name in self._names("refs/tags/") if self.run("rev-parse", "-q", "--verify", name + b"^{commit}")
        ]

    @property
    def commits(self) -> list[str]:
        """Ids of all commits."""
        return self.run("rev-list", "--all", "--date-order").decode().split()

    def run(self, *arguments: str | bytes, given: bytes = b"") -> bytes:
        """Return what git prints; nothing where it fails."""
        done = subprocess.run(
            ["git", f"--git-dir={self.path}", *arguments],
            input=given,
            env=ENVIRONMENT,
            capture_output=True,
            check=False,
        )
        return done.stdout if done.returncode == 0 else b""

    def _names(self, prefix: str) -> list[bytes]:
        return self.run("for-each-ref", "--format=%(refname)", prefix).splitlines()

    def _import_history(self) -> None:
        chance = self._chance
        branches = chance.sample(BRANCHES, k=chance.randint(1, 4))
        self.run("hash-object", "-t", "tree", "-w", "--stdin")
        heads: dict[bytes, int] = {}
        for _ in range(chance.randint(1, 12)):
            self._import_commit(chance.choice(branches), heads)
        for name in chance.sample(TAGS, k=chance.randint(0, 4)):
            target = b":%d" % chance.randint(1, self._commits)
            self._stream.append(
                b"tag %s\nfrom %s\n%s%s" % (name, target, self._person(b"tagger"), self._data(b"tagged\n"))
            )
        done = subprocess.run(
            ["git", f"--git-dir={self.path}", "fast-import", "--quiet", "--force"],
            input=b"".join(self._stream),
            env=ENVIRONMENT,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")

    def _import_commit(self, branch: bytes, heads: dict[bytes, int]) -> None:
        chance = self._chance
        self._commits += 1
        lines = [b"commit refs/heads/%s\nmark :%d\n" % (branch, self._commits)]
        lines += [self._person(b"author"), self._person(b"committer")]
        if chance.random() < 0.2:
            lines.append(b"encoding ISO-8859-1\n")
        lines.append(self._data(chance.choice([b"message\n", b"", b"caf\xe9\n", "ü\u202e\n".encode()])))
        if branch in heads and chance.random() < 0.9:
            lines.append(b"from :%d\n" % heads[branch])
        elif branch in heads:
            lines.append(b"from 0000000000000000000000000000000000000000\n")
        others = [mark for name, mark in heads.items() if name != branch]
        lines += [b"merge :%d\n" % mark for mark in others if chance.random() < 0.3]
        lines += [self._change() for _ in range(chance.randint(0, 8))]
        if chance.random() < 0.05:
            lines.append(b"deleteall\n")
        self._stream.append(b"".join(lines) + b"\n")
        heads[branch] = self._commits

    def _change(self) -> bytes:
        chance, path = self._chance, self._path()
        kind = chance.choices(["file", "program", "link", "gitlink", "empty", "delete"], weights=[9, 3, 5, 1, 1, 2])[0]
        if kind == "delete":
            return b"D %s\n" % path
        if kind == "gitlink":
            return b"M 160000 %s %s\n" % (b"1" * 40, path)
        if kind == "empty":
            return b"M 040000 %s %s\n" % (EMPTY_TREE.encode(), path)
        mode, contents = {"file": (b"100644", CONTENTS), "program": (b"755", CONTENTS), "link": (b"120000", TARGETS)}[
            kind
        ]
        return b"M %s inline %s\n%s" % (mode, path, self._data(chance.choice(contents)))

    def _path(self) -> bytes:
        chance = self._chance
        depth = chance.choice([1, 1, 1, 2, 2, 3, 12])
        names = [chance.choice(COMPONENTS[:6] if chance.random() < 0.5 else COMPONENTS) for _ in range(depth)]
        return b'"' + b"".join(b"\\%03o" % byte for byte in b"/".join(names)) + b'"'

    def _person(self, role: bytes) -> bytes:
        name = self._chance.choice([b"A U Thor", b"", b"Caf\xe9", "ü\u202e".encode()])
        space = b" " if name else b""
        zone = self._chance.choice([b"+0000", b"-0730", b"+1400"])
        return b"%s %s%s<a@example.com> %d %s\n" % (role, name, space, 1_700_000_000 + self._commits, zone)

    @staticmethod
    def _data(content: bytes) -> bytes:
        return b"data %d\n%s\n" % (len(content), content)

    def _odd_commit(self) -> None:
        """Add a commit with a tree that Git would not write: names twice, other modes, any order."""
        chance = self._chance
        blobs = [packs.blob(content) for content in CONTENTS[:4]]
        inner = packs.tree(Line(FILE, b"x", blobs[1].id), Line(LINK, b"y", packs.blob(b"../a").id))
        objects: list[Object] = [*blobs, inner, packs.blob(b"../a")]
        kinds: list[tuple[bytes, Object]] = [
            (mode, one) for mode in (FILE, PROGRAM, LINK, GITLINK) for one in blobs[1:3]
        ]
        kinds += [(mode, blobs[1]) for mode in (b"100600", b"0100644", b"104755", b"170000", b"1")]
        kinds += [(mode, inner) for mode in (FOLDER, b"040000", b"40755")]
        lines = []
        for _ in range(chance.randint(1, 8)):
            mode, one = chance.choice(kinds)
            lines.append(Line(mode, chance.choice(COMPONENTS[:6]), one.id))
        # A link that holds a NUL can't be made by anyone.
        lines = [line for line in lines if line.mode != LINK or line.object_id == blobs[1].id]
        root = packs.tree(*lines, is_sorted=False)
        branch = chance.choice(self._names("refs/heads/"))
        parent = self.run("rev-parse", branch).decode().strip()
        head = packs.commit(root, parent)
        for one in (*objects, root, head):
            put(self.path, one)
        self._set_ref(branch, head.id)

    def _tag_of_any(self) -> None:
        """Tag blobs and trees, with and without a tag object."""
        listed = self.run("rev-list", "--all", "--objects", "--no-object-names").decode().split()
        for number, object_id in enumerate(self._chance.sample(listed, k=min(3, len(listed)))):
            kind = self.run("cat-file", "-t", object_id).strip().decode()
            self._annotate(object_id, kind, b"any-%d" % number)
            self._set_ref(b"refs/tags/any-light-%d" % number, object_id)

    def _nested_tags(self) -> None:
        """Tag tags."""
        object_id, kind = self._chance.choice(self.commits), "commit"
        for number in range(self._chance.randint(1, 30)):
            object_id, kind = self._annotate(object_id, kind, b"nested-%d" % number), "tag"

    def _light_tags(self) -> None:
        """Tag commits without tag objects."""
        for number in range(self._chance.randint(1, 5)):
            self._set_ref(b"refs/tags/light-%d" % number, self._chance.choice(self.commits))

    def _annotate(self, object_id: str, kind: str, name: bytes) -> str:
        message = self._chance.choice([b"message\n", b"", b"caf\xe9"])
        tagger = self._person(b"tagger") if self._chance.random() < 0.9 else b""
        content = b"object %s\ntype %s\ntag %s\n%s\n%s" % (object_id.encode(), kind.encode(), name, tagger, message)
        tag = Object("tag", content)
        put(self.path, tag)
        self._set_ref(b"refs/tags/" + name, tag.id)
        return tag.id

    def _set_ref(self, name: bytes, object_id: str) -> None:
        self.run("update-ref", name, object_id)
