"""Repositories that cost as much as can be thought of, of random sizes: they are small, what is made of them is not.

Each shape yields a pack and what is wanted of it; whether it is cloned or refused is not the point.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from typing import Final

from tests.support import packs
from tests.support.packs import (
    FILE,
    FOLDER,
    Line,
    Object,
    blob,
    commit,
    copy,
    delta,
    entry,
    insert,
    ref_delta,
    tag,
    tree,
)

Made = tuple[bytes, Object]
"""A pack, and its commit or tag that is wanted."""

MISSING: Final = "1" * 40
FILE_CONTENT: Final = blob()

UNITS: Final = (
    b"x",
    b"\\",
    b"g",
    b".git",
    b"\\.git.",
    b". ",
    b":",
    b"\xff",
    b"\x01",
    b"\xe2\x80\x8c",
    "\N{GRINNING FACE}".encode(),
    b"git~1 ",
)
"""Of which long names are made: each goes another way through the checks of names."""


def long_names(chance: random.Random) -> Made:
    """A few names of up to 90 MB."""
    total = chance.choice((10**6, 3 * 10**7, 9 * 10**7))
    count = chance.choice((1, 3, 40))
    unit = chance.choice(UNITS)
    names = [b"%d" % number + unit * (total // count // len(unit)) for number in range(count)]
    return _of_tree(tree(*(Line(FILE, name, FILE_CONTENT.id) for name in names), is_sorted=False))


def many_long_names(chance: random.Random) -> Made:
    """Names over the limit, as many as there may be entries."""
    count, unit = chance.randrange(20_000, 100_000), chance.choice(UNITS)
    size = chance.choice((256, 500, 95 * 10**6 // count))
    name = unit * (size // len(unit))
    kind = chance.choice((FILE, packs.GITLINK))
    lines = [Line(kind, b"%d" % number + name, FILE_CONTENT.id) for number in range(count)]
    size = chance.choice((count, 2_000))
    trees = [tree(*lines[at : at + size], is_sorted=False) for at in range(0, count, size)]
    root = tree(*(Line(FOLDER, b"%d" % number, one.id) for number, one in enumerate(trees)))
    head = commit(root)
    return packs.pack([FILE_CONTENT, *trees, root, head]), head


def odd_modes(chance: random.Random) -> Made:
    """Modes of many digits, each another one."""
    count = chance.choice((10, 1_000, 90_000))
    digits = chance.choice((10, 50 * 10**6 // count))
    lines = [Line(b"0" * digits + b"1%05o" % (number % 32_768), b"%d" % number, MISSING) for number in range(count)]
    return _of_tree(tree(*lines, is_sorted=False))


def one_large_tree(chance: random.Random) -> Made:
    """A tree of up to 90 MB that is not even part of the newest commit."""
    size = chance.choice((10**7, 9 * 10**7))
    line = b"100644 %s\0%s" % (b"n" * chance.choice((1, 30)), bytes.fromhex(FILE_CONTENT.id))
    large = Object("tree", line * (size // len(line)))
    root = tree(Line(FILE, b"file", FILE_CONTENT.id))
    old = commit(large)
    head = commit(root, old.id)
    return packs.pack([FILE_CONTENT, large, root, old, head]), head


def trees_in_one_chain(chance: random.Random) -> Made:
    """Every level of the tree is a delta in one chain, with others in between, upwards or downwards."""
    levels, between = chance.randrange(20, 63), chance.choice((1, 10, 150, 300))
    total = chance.choice((10**6, 3 * 10**7, 2 * 10**8))
    size = total // (levels * between)
    name = b"m" * chance.choice((1, 240))
    # Each submodule is a directory, which takes a block of the disk.
    count = min(size // (len(name) + 30), 20_000 // levels)
    filler = b"".join(b"160000 %s%d\0%s" % (name, number, b"2" * 20) for number in range(count))
    chain = [Object("tree", b"100644 a\0" + bytes.fromhex(FILE_CONTENT.id) + filler)]
    wanted = [chain[0]]
    for level in range(levels):
        for number in range(between):
            other = b"100644 a\0%s" % bytes.fromhex(FILE_CONTENT.id) if number < between - 1 else b""
            below = b"" if other else b"40000 d\0" + bytes.fromhex(wanted[-1].id)
            mark = b"160000 l%04d-%05d\0%s" % (level, number, b"3" * 20)
            chain.append(Object("tree", other + below + mark + filler))
        wanted.append(chain[-1])
    order = chain if chance.random() < 0.5 else chain[::-1]
    rest = [_on(before, after, len(filler)) for before, after in pairwise(order)]
    head = commit(wanted[-1])
    return packs.pack([FILE_CONTENT, order[0], head], raw=rest), head


def tags_in_one_chain(chance: random.Random) -> Made:
    """Tags of tags, each a delta on the next or the one before."""
    head = commit(tree())
    chain: list[Object] = [head]
    filler = b"x" * chance.choice((1, 10_000))
    for _ in range(chance.choice((30, 3_000))):
        one = tag(chain[-1])
        chain.append(Object("tag", one.content + filler))
    order = chain[1:] if chance.random() < 0.5 else chain[:0:-1]
    rest = [_on(before, after, len(filler)) for before, after in pairwise(order)]
    return packs.pack([tree(), head, order[0]], raw=rest), chain[-1]


def many_objects(chance: random.Random) -> Made:
    """Objects of another id each, as many as there may be."""
    count = chance.choice((100_000, 490_000))
    made = [blob(b"%d" % number) for number in range(count)]
    root = tree(Line(FILE, b"file", made[0].id))
    head = commit(root)
    return packs.pack(raw=[*(entry(one, 0) for one in (*made, root, head))]), head


def many_missing(chance: random.Random) -> Made:
    """Trees and commits that name many objects, of which none is there."""
    count = chance.choice((50_000, 400_000, 1_000_000))
    lines = [b"%s %d\0%s" % (chance.choice((FILE, FOLDER)), number, chance.randbytes(20)) for number in range(count)]
    size = chance.choice((count, 1_000))
    trees = [Object("tree", b"".join(lines[at : at + size])) for at in range(0, count, size)]
    root = tree(Line(FILE, b"file", FILE_CONTENT.id))
    old = commit(root, *(chance.randbytes(20).hex() for _ in range(chance.choice((1, 100_000)))))
    head = commit(root, old.id)
    return packs.pack([FILE_CONTENT, root, *trees, old, head]), head


def many_parents(chance: random.Random) -> Made:
    """Commits with many parents each."""
    root = tree(Line(FILE, b"file", FILE_CONTENT.id))
    first = commit(root)
    parents = [first.id] * chance.choice((100_000, 1_900_000))
    head = commit(root, *parents)
    return packs.pack([FILE_CONTENT, root, first, head]), head


def same_directories(chance: random.Random) -> Made:
    """One name for many directories, on each level."""
    count = chance.choice((10, 300, 5_000))
    below = [tree(Line(FILE, b"%d" % number, FILE_CONTENT.id)) for number in range(count)]
    trees = list(below)
    for level in range(chance.choice((1, 5, 40))):
        below = [
            tree(
                *(Line(FOLDER, b"d", one.id) for one in below),
                Line(FILE, b"%d" % level, FILE_CONTENT.id),
                is_sorted=False,
            )
        ] * 2
        trees.append(below[0])
    head = commit(below[0])
    return packs.pack([FILE_CONTENT, *trees, head]), head


SHAPES: Final[list[Callable[[random.Random], Made]]] = [
    long_names,
    many_long_names,
    odd_modes,
    one_large_tree,
    trees_in_one_chain,
    tags_in_one_chain,
    many_objects,
    many_missing,
    many_parents,
    same_directories,
]


def _of_tree(root: Object) -> Made:
    head = commit(root)
    return packs.pack([FILE_CONTENT, root, head]), head


def _on(before: Object, after: Object, same: int) -> bytes:
    """Return a delta that takes over the end, of so many bytes, and inserts the rest."""
    start, size = len(before.content) - same, len(after.content)
    copies = [copy(start + at, min(0xFFFF, same - at)) for at in range(0, same, 0xFFFF)]
    return ref_delta(before.id, delta(len(before.content), size, insert(after.content[: size - same]), *copies))
