"""Compares what is read of a pack with what Git reads: ``python -m tests.fuzz.differential --seconds 300``.

The reference is ``git index-pack`` on a file in an empty repository. ``git clone`` calls it with ``--stdin
--fix-thin``, which completes a pack whose bases are missing from what the repository has: from nothing, in a clone. The
rest of what ``git clone`` asks for, the links between objects, is compared in tests/git/pack/test_connectivity.py.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from zlib import crc32

from dulwich.object_format import DEFAULT_OBJECT_FORMAT
from dulwich.pack import Pack as DulwichPack

from coderepos.exceptions import CodeReposError, LimitExceeded, RemoteProtocolError
from coderepos.git.pack import index as pack_index
from coderepos.git.pack.delta import apply_delta, apply_delta_in_pieces, delta_sizes
from tests.fuzz.mutate import mutated
from tests.fuzz.seeds import CORPUS, seeds
from tests.fuzz.structured import broken_delta, random_delta, structured
from tests.support import packs
from tests.support.build_child import index_of, scanned
from tests.support.packs import Object

SECONDS: Final = 20
"""Wall clock after which Git counts as never ending; it takes milliseconds."""

STRICTER: Final = ("size of an entry", "header of a delta", "offset of a delta base")
"""Reasons of ours for numbers of more than ten bytes, which no Git writes: docs/hostile-cases.md."""

NUMBER_BYTES: Final = 10


class Reference:
    """The real git, in an empty repository.

    :param folder: an empty one.
    """

    def __init__(self, folder: Path) -> None:
        self._repository: Final = folder / "empty.git"
        self._pack: Final = self._repository / "objects/pack/pack-x.pack"
        self._index: Final = self._pack.with_suffix(".idx")
        self._run("init", "-q", "--bare", str(self._repository))

    def index(self, content: bytes) -> bytes | None:
        """Return the index that Git writes of a pack, ``None`` where it refuses the pack."""
        with self._written(content):
            done = self._git("index-pack", str(self._pack))
            return self._index.read_bytes() if done and not done.returncode else None

    def trouble_of_readers(self, content: bytes, index: bytes) -> str:
        """Return what goes wrong when the pack is read: by Git with fsck and object by object, and by dulwich."""
        with self._written(content, index):
            checked = self._git("fsck", "--no-dangling")
            if checked is None:
                return "git fsck never ends"
            # It may say more of objects that are no trees or commits, of which nothing else is wrong.
            if re.search(rb"mismatch|packed .* is corrupt|packfile", checked.stderr) or checked.returncode < 0:
                return f"git fsck says {checked.stderr!r}"
            read = self._git("cat-file", "--batch-all-objects", "--batch", "--buffer")
            if read is None or read.returncode:
                return "git cat-file never ends" if read is None else f"git cat-file says {read.stderr!r}"
            with DulwichPack(str(self._pack.with_suffix("")), object_format=DEFAULT_OBJECT_FORMAT) as pack:
                for object_id in pack:
                    pack.get_raw(object_id)
        return ""

    def complaints(self, content: bytes, index: bytes) -> str:
        """Return what ``git fsck`` says of a pack with this index; it tells every entry that it can't read."""
        with self._written(content, index):
            done = self._git("fsck", "--no-dangling")
            assert done
            return done.stderr.decode()

    @contextmanager
    def _written(self, content: bytes, index: bytes | None = None) -> Iterator[None]:
        self._pack.write_bytes(content)
        if index is not None:
            self._index.write_bytes(index)
        try:
            yield
        finally:
            for suffix in (".pack", ".idx", ".rev"):
                self._pack.with_suffix(suffix).unlink(missing_ok=True)

    def _git(self, *arguments: str) -> subprocess.CompletedProcess[bytes] | None:
        try:
            return self._run(f"--git-dir={self._repository}", *arguments)
        except subprocess.TimeoutExpired:
            return None

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["git", *arguments],
            capture_output=True,
            check=False,
            timeout=SECONDS,
            env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"},
        )


@dataclass
class Comparison:
    """What came of a run."""

    packs: Counter[str] = field(default_factory=Counter)
    deltas: int = 0
    """Those that Git carries out."""

    wrong: list[str] = field(default_factory=list)


def compare(*, seconds: float, seed: int, found: Path) -> Comparison:
    """Compare deltas for a tenth of the time and packs for the rest, or until something is wrong.

    :param found: folder in which a pack is left that is not read alike.
    """
    chance, made, start = random.Random(seed), Comparison(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="coderepos-fuzz-") as folder:
        reference = Reference(Path(folder))
        while not made.wrong and (time.monotonic() < start + seconds / 10 or not made.deltas):
            count, wrong = compared_deltas(500, chance, reference)
            made.deltas += count
            made.wrong += wrong
        for content in packs_to_compare(chance):
            if made.wrong or time.monotonic() > start + seconds:
                return made
            outcome, trouble = compared(content, reference)
            made.packs[outcome] += 1
            if trouble:
                path = found / f"differs-{hashlib.sha256(content).hexdigest()[:16]}.pack"
                path.write_bytes(content)
                made.wrong.append(f"{path}: {trouble}")
    return made


def packs_to_compare(chance: random.Random) -> Iterator[bytes]:
    """Yield packs without end: most are put together at random, some are valid ones with changes."""
    inputs = [content for _, content in seeds()]
    while True:
        yield mutated(chance.choice(inputs), chance) if chance.random() < 0.2 else structured(chance)


def compared(content: bytes, reference: Reference) -> tuple[str, str]:
    """Return what came of a pack, and what is wrong with that, if anything."""
    ours, refusal = None, ""
    try:
        ours = index_of(content)
    except (RemoteProtocolError, LimitExceeded) as error:
        refusal = str(error.fields.get("reason", error.code))
    git = reference.index(content)
    if ours is None:
        if git is None:
            return "refused", ""
        if is_written_rule(refusal, content):
            return "refused by a rule of ours", ""
        return "refused", f"git reads it, we do not: {refusal}"
    if git is None:
        return "read", "git refuses it"
    if ours != git:
        return "read", "the index is another one"
    return "read", reference.trouble_of_readers(content, git)


def is_written_rule(refusal: str, content: bytes) -> bool:
    """Return whether the documentation tells of this refusal: of a limit, or of a number longer than Git writes."""
    return refusal.endswith(("_too_large", "_many_objects")) or (refusal in STRICTER and _has_long_number(content))


def _has_long_number(content: bytes) -> bool:
    # Ten bytes that go on, as they stand in the pack; those of a delta are compressed, and compared as deltas.
    run = 0
    for byte in content:
        run = run + 1 if byte & 0x80 else 0
        if run >= NUMBER_BYTES - 1:
            return True
    return False


def compared_deltas(count: int, chance: random.Random, reference: Reference) -> tuple[int, list[str]]:
    """Apply many deltas here and by Git, and return how many Git carries out, and what is not the same.

    They are the entries of one pack, under an index that names each by the id of what we make of it, or by an id of no
    object: ``git fsck`` says of every entry whether it could be read, and whether the id fits.
    """
    base = Object("blob", bytes(range(97, 123)) * chance.choice((1, 10)))
    refused: dict[str, bytes] = {}
    made = {base.id: b""}
    entries, ids = [packs.entry(base)], [bytes.fromhex(base.id)]
    at = len(entries[0])
    for number in range(count):
        make = chance.choice((broken_delta, broken_delta, random_delta))
        delta = make(
            base.content, chance.choice((b"", chance.randbytes(20), base.content + chance.randbytes(9))), chance
        )
        result = _applied(base.content, delta)
        object_id = Object("blob", result).id if result is not None else f"{number:040x}"
        if object_id in made:
            continue
        (refused if result is None else made)[object_id] = delta
        ids.append(bytes.fromhex(object_id))
        # A base by its offset needs no id, so that what is wrong with one delta is wrong with no other.
        entries.append(packs.ofs_delta(at, delta))
        at += len(entries[-1])
    content = packs.pack(raw=entries)
    said = reference.complaints(content, _index(entries, ids, content))
    wrong = [f"git refuses {delta.hex()}" for one, delta in made.items() if one in said]
    wrong += [
        f"git makes something of {delta.hex()}"
        for one, delta in refused.items()
        if f"unpack {one}" not in said and not _has_long_number(delta)
    ]
    return len(made) - 1, wrong


def _applied(base: bytes, delta: bytes) -> bytes | None:
    results: list[bytes | None] = []
    for apply in (apply_delta, lambda base, delta, **sizes: apply_delta_in_pieces(base, [delta], **sizes)):
        try:
            results.append(apply(base, delta, result_bytes=delta_sizes(delta)[1]))
        except CodeReposError:
            results.append(None)
    assert results[0] == results[1], delta.hex()
    return results[0]


def _index(entries: list[bytes], ids: list[bytes], content: bytes) -> bytes:
    """Return an index that gives these ids to these entries."""
    # Whole blobs in the place of deltas are read without a complaint; their columns are then made to fit.
    with scanned(packs.pack([packs.blob(one) for one in ids])) as pack:
        at = 12
        for number, one in enumerate(entries):
            pack.offsets[number], pack.crcs[number] = at, crc32(one)
            pack.ids[number * 20 : number * 20 + 20] = ids[number]
            at += len(one)
        pack.trailer = content[-20:]
        return pack_index.index_of(pack)


def main(arguments: list[str] | None = None) -> int:
    """Compare for some time, tell what came of it, and return 1 where something was read otherwise than by Git."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="python -m tests.fuzz.differential")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    given = parser.parse_args(arguments)
    print(f"Seed {given.seed}", flush=True)
    made = compare(seconds=given.seconds, seed=given.seed, found=CORPUS)
    counts = ", ".join(f"{outcome} {number:,}" for outcome, number in made.packs.most_common())
    print(f"{made.packs.total():,} packs: {counts}; {made.deltas:,} deltas that Git carries out")
    print(*made.wrong, sep="\n", end="\n" if made.wrong else "")
    return 1 if made.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
