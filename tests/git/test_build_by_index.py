"""What is built by the stored index is what is built from the wire, and no index makes it anything else."""

from __future__ import annotations

import hashlib
import os
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from coderepos.exceptions import CodeReposError, StoreDamaged
from coderepos.git.clone import CloneRequest, clone
from coderepos.git.limits import Limits
from coderepos.git.wire import BuildReport, BuildRequest, dump_line, message_fields, request_line
from coderepos.sandbox.removal import remove_tree
from tests.fuzz.random_repositories import RandomRepository
from tests.support import packs
from tests.support.build_child import built_here, child, outcome_of, published, rebuilt_here
from tests.support.packs import FILE, FOLDER, GITLINK, LINK, PROGRAM, Line, Object, blob, commit, tag, tree
from tests.support.reference_git import listing
from tests.support.servers.git_http_backend import GitServer

Contents = dict[bytes, tuple[str, bytes]]

MAGIC_AND_FAN_OUT = 8 + 1_024


def figures(report: BuildReport) -> dict[str, object]:
    """Return what a build reports, but for the time that it took."""
    return {**asdict(report), "seconds": None}


def contents(version: Path) -> tuple[object, list[tuple[str, int]]]:
    """Return all names, types and bytes of a version, and its modes."""
    modes = [
        (str(path.relative_to(version)), path.lstat().st_mode) for path in sorted(version.rglob("*")) if path != version
    ]
    return listing(version), modes


@pytest.fixture
def incoming(tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """Names of directories to build in, removed in the end."""
    numbers = count()
    yield lambda: tmp_path / f"incoming-{next(numbers)}"
    folder = os.open(tmp_path, os.O_RDONLY)
    for path in tmp_path.iterdir():
        if path.name.startswith("incoming-"):
            remove_tree(path.name, parent=folder)
    os.close(folder)


@pytest.mark.parametrize("seed", [*range(1, 7), *(pytest.param(one, marks=pytest.mark.slow) for one in range(7, 25))])
def test_random_repositories(tmp_path: Path, incoming: Callable[[], Path], seed: int) -> None:
    """Whatever Git lets into one, at any ref: the same bytes, names, modes and figures."""
    repository = RandomRepository(tmp_path / "served/repository.git", seed)
    with GitServer(tmp_path / "served") as server:
        for ref, depth in (("", None), (repository.commits[0], 2)):
            first, again = incoming(), incoming()
            first.mkdir()
            request = CloneRequest(
                url=server.url("repository.git"),
                credentials=None,
                ref=ref,
                depth=depth,
                policy=server.policy(),
                limits=Limits(),
                min_level=1,
                group_readable=False,
            )
            try:
                report = clone(request, incoming=first, on_progress=lambda _progress: None)
            except CodeReposError:
                continue  # Git refuses it too, which another test compares
            rebuilt = rebuilt_here(first, again)
            # A clone tells of the entries that are there, a build also of those that were left out.
            rebuilt = replace(rebuilt, entries=report.build.entries)
            assert figures(rebuilt) == figures(_without_skipped_tags(report.build))
            assert contents(again) == contents(first)


def _without_skipped_tags(report: BuildReport) -> BuildReport:
    """Return what a build reports that is not told of tags that are not in its pack: those that were left out."""
    kept = {reason: number for reason, number in report.substitutions.items() if reason != "tag"}
    paths = tuple(path for path in report.substituted_paths if not path.startswith("tag:"))
    return replace(report, substitutions=kept, substituted_paths=paths)


def odd_pack() -> tuple[bytes, Object, dict[str, Any]]:
    """Return a pack with deltas by offset and by id, an object twice, nested tags, and every kind of entry."""
    base = blob(b"line\n" * 50)
    changed = Object("blob", base.content + b"more\n")
    again = Object("blob", changed.content + b"more\n")
    by_id = packs.ref_delta(
        base.id, packs.delta(len(base.content), len(changed.content), packs.copy(0, 250), packs.insert(b"more\n"))
    )
    by_offset_content = packs.delta(
        len(changed.content), len(again.content), packs.copy(0, 255), packs.insert(b"more\n")
    )
    target = blob(b"changed")
    inner = tree(Line(FILE, b"again", again.id))
    root = tree(
        Line(PROGRAM, b"base", base.id),
        Line(FILE, b"changed", changed.id),
        Line(FOLDER, b"dir", inner.id),
        Line(GITLINK, b"module", "1" * 40),
        Line(LINK, b"to", target.id),
        Line(LINK, b"out", blob(b"/etc/passwd").id),
    )
    head = commit(root)
    tags = [tag(head, b"v0")]
    for number in range(1, 40):
        tags.append(tag(tags[-1], b"v%d" % number))
    raw = [packs.entry(base), by_id, packs.ofs_delta(len(by_id), by_offset_content)]
    raw += [packs.entry(one) for one in (target, target, blob(b"/etc/passwd"), inner, root, head, *tags)]
    names = {"tags": (("refs/tags/v39", tags[-1].id), ("refs/tags/v3", tags[3].id))}
    return packs.pack(raw=raw), head, names


def test_odd_pack(incoming: Callable[[], Path]) -> None:
    """Deltas by id and by offset, an object that is there twice, tags of tags, links, submodules; for a group too."""
    content, head, names = odd_pack()
    for group_readable in (False, True):
        first, again = incoming(), incoming()
        report = built_here(first, content, outcome_of(content, head, **names), group_readable=group_readable)
        assert figures(rebuilt_here(first, again, group_readable=group_readable)) == figures(report)
        assert contents(again) == contents(first)


def test_index_that_leaves_an_object_out_is_refused(incoming: Callable[[], Path]) -> None:
    """Also one that the working tree has no use for: Git would refuse the whole pack."""
    unread, kept = blob(b"old\n"), blob(b"one\n")
    root = tree(Line(FILE, b"one", kept.id))
    head = commit(root)
    content = packs.pack([kept, unread, root, head])
    first = incoming()
    built_here(first, content, outcome_of(content, head))
    index = Index(published(first)[1])
    row, objects, at = index.row_of(unread), index.objects, MAGIC_AND_FAN_OUT
    columns = []
    for width in (20, 4, 4):
        column = [bytes(index.content[at + width * one : at + width * (one + 1)]) for one in range(objects)]
        at += width * objects
        columns.append(column[:row] + column[row + 1 :])
    ids = columns[0]
    fan_out = b"".join(struct.pack(">I", sum(one[0] <= first_byte for one in ids)) for first_byte in range(256))
    shorter = bytes(index.content[:8]) + fan_out + b"".join(b"".join(one) for one in columns) + content[-20:]

    with pytest.raises(StoreDamaged):
        rebuilt_here(first, incoming(), index=shorter + hashlib.sha1(shorter, usedforsecurity=False).digest())


def test_confined_child_builds_by_index(incoming: Callable[[], Path]) -> None:
    """With all that a build child drops."""
    content, head, names = odd_pack()
    first, again = incoming(), incoming()
    report = built_here(first, content, outcome_of(content, head, **names))
    pack, index, outcome = published(first)
    request = BuildRequest(incoming=str(again), limits=Limits(), min_level=1, index_bytes=len(index))
    lines = [request_line(request), dump_line({"event": "outcome", **message_fields(outcome)})]
    built = child(again, pack + index, lines=lines)
    assert built.status == 0, built.last
    assert built.last["commit_id"] == report.commit_id
    assert contents(again) == contents(first)


class Index:
    """An index whose columns a test changes."""

    def __init__(self, content: bytes) -> None:
        self.content = bytearray(content)
        self.objects = int.from_bytes(content[MAGIC_AND_FAN_OUT - 4 : MAGIC_AND_FAN_OUT])
        self.offsets_at = MAGIC_AND_FAN_OUT + 24 * self.objects

    def sealed(self) -> bytes:
        """Return it with a right checksum."""
        body = bytes(self.content[:-20])
        return body + hashlib.sha1(body, usedforsecurity=False).digest()

    def row_of(self, one: Object) -> int:
        """Return the row of an object."""
        at = self.content.index(bytes.fromhex(one.id), MAGIC_AND_FAN_OUT)
        return (at - MAGIC_AND_FAN_OUT) // 20

    def offset_at(self, row: int) -> int:
        """Return where the offset of a row is."""
        return self.offsets_at + 4 * row


def swap_offsets(index: Index, one: Object, other: Object) -> None:
    """Let each of two ids lead to the other object."""
    mine, theirs = (slice(at, at + 4) for at in (index.offset_at(index.row_of(each)) for each in (one, other)))
    index.content[mine], index.content[theirs] = index.content[theirs], index.content[mine]


def shift_offset(index: Index, one: Object, by: int) -> None:
    """Let an id lead to somewhere else."""
    at = index.offset_at(index.row_of(one))
    (found,) = struct.unpack_from(">I", index.content, at)
    struct.pack_into(">I", index.content, at, (found + by) % 2**32)


LIES: dict[str, Callable[[Index, Object, Object], object]] = {
    "blobs swapped": swap_offsets,
    "inside of an entry": lambda index, one, _: shift_offset(index, one, 1),
    "behind the end": lambda index, one, _: shift_offset(index, one, 10**6),
    "a large offset without a table": lambda index, one, _: shift_offset(index, one, 2**31),
    "an id that is not there": lambda index, one, _: index.content.__setitem__(
        MAGIC_AND_FAN_OUT + 20 * index.row_of(one) + 19, 0
    ),
    "fan-out not sorted": lambda index, *_: struct.pack_into(">I", index.content, 8 + 4 * 100, 2**32 - 1),
    "more objects": lambda index, *_: struct.pack_into(">I", index.content, MAGIC_AND_FAN_OUT - 4, 2**31),
    "no objects": lambda index, *_: struct.pack_into(">256I", index.content, 8, *[0] * 256),
    "another version": lambda index, *_: index.content.__setitem__(7, 3),
    "of another pack": lambda index, *_: index.content.__setitem__(-30, index.content[-30] ^ 1),
    "longer": lambda index, *_: index.content.extend(bytes(8)),
    "cut": lambda index, *_: index.content.__delitem__(slice(-100, None)),
    "empty": lambda index, *_: index.content.clear(),
}


@pytest.mark.parametrize("lie", LIES)
def test_index_that_lies_is_refused(incoming: Callable[[], Path], lie: str) -> None:
    """With a checksum that is right."""
    one, other = blob(os.urandom(100).hex().encode()), blob(os.urandom(100).hex().encode())
    root = tree(Line(FILE, b"one", one.id), Line(FILE, b"other", other.id))
    head = commit(root)
    content = packs.pack([one, other, root, head])
    first = incoming()
    built_here(first, content, outcome_of(content, head))
    index = Index(published(first)[1])
    LIES[lie](index, one, other)
    with pytest.raises(CodeReposError) as caught:
        rebuilt_here(first, incoming(), index=index.sealed())
    assert caught.value.code in ("store_damaged", "unsafe_repository", "remote_protocol_error", "object_too_large")


def test_flipped_bit_in_an_index_is_refused(incoming: Callable[[], Path]) -> None:
    """Wherever it is, also where nothing that is written needs it."""
    content, head, names = odd_pack()
    first = incoming()
    built_here(first, content, outcome_of(content, head, **names))
    index = published(first)[1]
    chance = random.Random(1)
    for _ in range(50):
        flipped = bytearray(index)
        flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
        with pytest.raises(StoreDamaged):
            rebuilt_here(first, incoming(), index=bytes(flipped))


@pytest.mark.parametrize("cases", [100, pytest.param(3_000, marks=pytest.mark.slow)])
def test_random_lies_change_nothing_that_is_written(incoming: Callable[[], Path], cases: int) -> None:
    """An index with any bytes changed and a right checksum leads to the same tree and refs, or to an error."""
    content, head, names = odd_pack()
    first = incoming()
    built_here(first, content, outcome_of(content, head, **names))
    index, expected = published(first)[1], listing(first / "tree")
    refs = (first / "git/packed-refs").read_bytes()
    chance = random.Random(cases)
    same = refused = 0
    for _ in range(cases):
        changed = Index(index)
        for _ in range(chance.randint(1, 4)):
            changed.content[chance.randrange(len(index) - 20)] = chance.randrange(256)
        again = incoming()
        try:
            rebuilt_here(first, again, index=changed.sealed())
        except CodeReposError:
            refused += 1
        else:
            same += 1
            assert listing(again / "tree") == expected
            assert (again / "git/packed-refs").read_bytes() == refs
    assert same > 0 < refused


def test_deltas_in_a_circle_end(incoming: Callable[[], Path]) -> None:
    """Which a scan refuses, so that only a pack that was never scanned has them."""
    one, other = blob(b"a\n"), blob(b"b\n")
    root = tree(Line(FILE, b"one", one.id))
    head = commit(root)
    whole = packs.pack([one, other, root, head])
    first = incoming()
    built_here(first, whole, outcome_of(whole, head))
    raw = [
        packs.ref_delta(other.id, packs.delta(2, 2, packs.insert(one.content))),
        packs.ref_delta(one.id, packs.delta(2, 2, packs.insert(other.content))),
        *(packs.entry(each) for each in (root, head)),
    ]
    circle = packs.pack(raw=raw)
    starts = dict(zip((one, other, root, head), _starts(raw), strict=True))
    index = Index(published(first)[1])
    for each, start in starts.items():
        struct.pack_into(">I", index.content, index.offset_at(index.row_of(each)), start)
    index.content[-40:-20] = circle[-20:]
    pack = next((first / "git/objects/pack").glob("*.pack"))
    pack.chmod(0o600)
    pack.write_bytes(circle)
    with pytest.raises(StoreDamaged):
        rebuilt_here(first, incoming(), index=index.sealed())


def _starts(raw: list[bytes]) -> Iterator[int]:
    at = 12
    for one in raw:
        yield at
        at += len(one)
