"""Writes the seeds of the corpus: ``python -m tests.fuzz.seeds``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final

from tests.support import packs
from tests.support.packs import (
    FILE,
    FOLDER,
    GITLINK,
    LINK,
    PROGRAM,
    Line,
    Object,
    blob,
    copy,
    delta,
    entry,
    insert,
    ofs_delta,
    ref_delta,
)

CORPUS: Final = Path(__file__).parent / "corpus"

TEXT: Final = b"".join(b"line %d\n" % number for number in range(40))


def seeds() -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of each; Git reads every one."""
    content = blob()
    plain = packs.tree(Line(FILE, b"file", content.id))
    head = packs.commit(plain)
    yield "plain", packs.pack([content, plain, head])
    yield "empty-tree", packs.pack([packs.tree(), packs.commit(packs.tree())])
    yield "history", packs.pack(_history())
    yield "tags", packs.pack([content, plain, head, *_tags(head)])
    yield "kinds-of-entries", packs.pack(_kinds())
    yield "links", packs.pack(_links())
    yield "names", packs.pack(_names())
    yield "folders", packs.pack(_folders(6))
    yield "deltas-by-offset", _deltas_by_offset()
    yield "deltas-by-id", _deltas_by_id()
    yield "delta-trees", _delta_trees()
    yield "large-and-empty", packs.pack(_sizes())
    yield "twice", packs.pack([content, content, plain, head, head])
    yield "no-objects", packs.pack()
    yield "deep", packs.pack(_folders(20))
    yield "bomb", packs.pack(_bomb())


def _history() -> list[Object]:
    objects: list[Object] = []
    parents: list[str] = []
    for number in range(5):
        file = blob(TEXT + b"change %d\n" % number)
        root = packs.tree(Line(FILE, b"file", file.id))
        head = packs.commit(root, *parents[-2:], message=b"Change %d\n" % number)
        parents.append(head.id)
        objects += [file, root, head]
    return objects


def _tags(head: Object) -> list[Object]:
    first = packs.tag(head)
    second = packs.tag(first, b"v2")
    return [first, second, packs.tag(second, b"v3")]


def _kinds() -> list[Object]:
    inner = packs.tree(Line(FILE, b"inner", blob().id))
    target = blob(b"folder/inner")
    pointer = blob(b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n")
    root = packs.tree(
        Line(FILE, b"file", blob().id),
        Line(PROGRAM, b"run", blob().id),
        Line(LINK, b"link", target.id),
        Line(FOLDER, b"folder", inner.id),
        Line(GITLINK, b"module", "1" * 40),
        Line(FILE, b"large.bin", pointer.id),
        Line(b"100664", b"old", blob().id),
    )
    return [blob(), inner, target, pointer, root, packs.commit(root)]


def _links() -> list[Object]:
    targets = {
        b"a": b"b",
        b"b": b"folder/c",
        b"d": b"../x",
        b"e": b"/etc/passwd",
        b"f": b"f",
        b"g": b"folder/../../git",
        b"h": b"missing/../file",
        b"i": b".",
    }
    blobs = {name: blob(target) for name, target in targets.items()}
    up = blob(b"../a")
    folder = packs.tree(Line(LINK, b"c", up.id), Line(FILE, b"file", blob().id))
    root = packs.tree(*(Line(LINK, name, one.id) for name, one in blobs.items()), Line(FOLDER, b"folder", folder.id))
    return [blob(), up, *blobs.values(), folder, root, packs.commit(root)]


def _names() -> list[Object]:
    names = (b"-rf", b"a\\b", b"con", b"\xff\xfe", b"n" * 250, b"\x1b[31m", b"new\nline", b".gitignore", b"A", b"a")
    root = packs.tree(*(Line(FILE, name, blob().id) for name in names))
    return [blob(), root, packs.commit(root)]


def _folders(depth: int) -> list[Object]:
    trees = [packs.tree(Line(FILE, b"file", blob().id))]
    for _ in range(depth):
        trees.append(packs.tree(Line(FOLDER, b"d", trees[-1].id), Line(FILE, b"file", blob().id)))
    return [blob(), *trees, packs.commit(trees[-1])]


def _deltas_by_offset() -> bytes:
    base, changed = blob(TEXT), blob(TEXT[:200] + b"new" + TEXT[200:])
    first = entry(base)
    second = ofs_delta(
        len(first), delta(len(TEXT), len(TEXT) + 3, copy(0, 200), insert(b"new"), copy(200, len(TEXT) - 200))
    )
    third = ofs_delta(len(second), delta(len(TEXT) + 3, 6, copy(0, 3), copy(200, 3)))
    last = blob(changed.content[:3] + b"new")
    root = packs.tree(Line(FILE, b"a", base.id), Line(FILE, b"b", changed.id), Line(FILE, b"c", last.id))
    return packs.pack(raw=[first, second, third, entry(root), entry(packs.commit(root))])


def _deltas_by_id() -> bytes:
    objects = [blob(b"%08d" % number) for number in range(8)]
    steps = [ref_delta(before.id, delta(8, 8, insert(after.content))) for before, after in pairwise(objects)]
    root = packs.tree(*(Line(FILE, one.content, one.id) for one in objects))
    return packs.pack(raw=[*reversed(steps), entry(objects[0]), entry(root), entry(packs.commit(root))])


def _delta_trees() -> bytes:
    lines = [Line(FILE, b"%03d" % number, blob().id) for number in range(12)]
    before, after = packs.tree(*lines[:-1]), packs.tree(*lines)
    size = len(before.content)
    grown = delta(size, len(after.content), copy(0, size), insert(after.content[size:]))
    old = packs.commit(before)
    new = packs.commit(after, old.id)
    return packs.pack([blob(), before, old], raw=[ref_delta(before.id, grown), entry(new)])


def _sizes() -> list[Object]:
    files = [blob(bytes(size)) for size in (0, 1, 15, 16, 2_047, 2_048, 65_535, 65_536, 131_072)]
    root = packs.tree(*(Line(FILE, b"%d" % len(one.content), one.id) for one in files))
    return [*files, root, packs.commit(root)]


def _bomb() -> list[Object]:
    trees = [packs.tree(*(Line(FILE, b"%d" % number, blob().id) for number in range(10)))]
    for _ in range(9):
        trees.append(packs.tree(*(Line(FOLDER, b"%d" % number, trees[-1].id) for number in range(10))))
    return [blob(), *trees, packs.commit(trees[-1])]


def main() -> None:
    """Write them."""
    for name, content in seeds():
        (CORPUS / f"{name}.pack").write_bytes(content)


if __name__ == "__main__":
    main()
