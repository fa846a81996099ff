"""Fuzzes the pack reader: ``python -m tests.fuzz.pack --seconds 300``.

Every input goes through all that the build child does with a pack, in this process and under small limits. It has to be
built or refused with an error of ours, soon and in little memory. What breaks that is saved into the corpus.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from coderepos.exceptions import CodeReposError, InternalError
from coderepos.git.build import make
from coderepos.git.limits import MB, Limits
from coderepos.git.wire import BuildRequest, FetchOutcome
from coderepos.sandbox.removal import remove_tree
from tests.fuzz.model import entries_of, wanted_of
from tests.fuzz.mutate import mutated
from tests.fuzz.seeds import CORPUS
from tests.support import packs
from tests.support.packs import TYPES

SECONDS: Final = 5.0
"""Processor time that no input may take."""

GROWTH_MB: Final = 64
"""Memory beyond that of all earlier inputs that none may take."""

SMALL: Final = Limits(
    wire_bytes=MB,
    objects=1_000,
    object_bytes=MB,
    inflated_floor_bytes=4 * MB,
    inflated_ratio=20,
    disk_bytes=4 * MB,
    entries=200,
    depth=8,
    path_bytes=300,
)
LIMITS: Final = (SMALL, Limits(delta_memory_bytes=0))
"""Either is used: all bounds near, or all far and no memory for deltas."""

Target = Callable[[bytes], object]


class TooSlow(BaseException):
    """An input took too long; no ``except Exception`` may hold it."""


class Broken(Exception):
    """An input was built as it may not be."""


@dataclass
class Tally:
    """What came of the inputs."""

    inputs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    saved: list[Path] = field(default_factory=list)


def read(content: bytes) -> str:
    """Build a pack as the child does, and return the code of the error of ours that it ended in, if any.

    :raises Broken: something of it leaves its folder.
    """
    entries = entries_of(content)
    ids = [one.object_id.hex() for one in entries if one.kind in (TYPES["commit"], TYPES["tag"])]
    outcome = FetchOutcome(
        wanted_id=wanted_of(entries),
        ref_name="refs/heads/main",
        head_branch="refs/heads/main",
        tags=tuple((f"refs/tags/{number}", one) for number, one in enumerate(ids)),
        shallow=tuple(ids[:2]),
        pack_bytes=len(content),
    )
    limits = LIMITS[hashlib.sha1(content, usedforsecurity=False).digest()[0] & 1]
    with _folder() as incoming:
        request = BuildRequest(incoming=incoming, limits=limits, min_level=1)
        folder, source = os.open(incoming, os.O_RDONLY), packs.descriptor(content)
        try:
            make(request, folder, source, lambda: outcome, _checked_event)
        except InternalError:
            raise
        except CodeReposError as error:
            return error.code
        finally:
            os.close(source)
            os.close(folder)
        _check_links(Path(incoming, "tree"))
    return ""


def _checked_event(event: Mapping[str, object]) -> None:
    if not isinstance(event.get("event"), str):
        raise Broken(event)


@contextmanager
def _folder() -> Iterator[str]:
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    made = tempfile.mkdtemp(prefix="coderepos-fuzz-", dir=where)
    try:
        yield made
    finally:
        parent = os.open(os.path.dirname(made), os.O_RDONLY)
        try:
            remove_tree(os.path.basename(made), parent=parent)
        finally:
            os.close(parent)


def _check_links(tree: Path) -> None:
    for at, folders, files in os.walk(tree):
        for name in (*folders, *files):
            path = os.path.join(at, name)
            if os.path.islink(path) and not Path(os.path.realpath(path)).is_relative_to(tree):
                raise Broken("a link leaves the tree")


def evaluated(target: Target, content: bytes, *, seconds: float = SECONDS) -> tuple[str, str]:
    """Return the outcome of one input, and what is wrong with it, empty where nothing is."""

    def stop(number: int, frame: object) -> None:
        raise TooSlow

    before = _peak_mb()
    handler = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        outcome, wrong = str(target(content) or "built"), ""
    except TooSlow:
        outcome, wrong = "slow", f"it took more than {seconds:g} seconds"
    except Exception as error:
        outcome, wrong = type(error).__name__, f"{type(error).__name__} came out"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
    if not wrong and _peak_mb() - before > GROWTH_MB:
        wrong = f"it took more than {GROWTH_MB} MB"
    return outcome, wrong


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024 / MB


def fuzz(
    *, seconds: float, seed: int, corpus: Path = CORPUS, target: Target = read, patience_seconds: float = SECONDS
) -> Tally:
    """Try the corpus, then mutations of it until the time is over or an input breaks the contract, which is saved."""
    tally, chance = Tally(), random.Random(seed)
    inputs = [path.read_bytes() for path in sorted(corpus.glob("*.pack"))]
    ends = time.monotonic() + seconds
    # The corpus is tried first and whole, however short the time.
    while tally.inputs < len(inputs) or time.monotonic() < ends:
        is_new = tally.inputs >= len(inputs)
        content = mutated(chance.choice(inputs), chance) if is_new else inputs[tally.inputs]
        tally.inputs += 1
        outcome, wrong = evaluated(target, content, seconds=patience_seconds)
        tally.outcomes[outcome] += 1
        if wrong:
            path = corpus / f"broken-{hashlib.sha256(content).hexdigest()[:16]}.pack"
            path.write_bytes(content)
            tally.saved.append(path)
            print(f"Input {tally.inputs} is broken, {wrong}: {path}", flush=True)
            break
    return tally


def main(arguments: list[str] | None = None) -> int:
    """Fuzz for some time, tell what came of it, and return 1 where an input broke the contract."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="python -m tests.fuzz.pack")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    given = parser.parse_args(arguments)
    print(f"Seed {given.seed}", flush=True)
    tally = fuzz(seconds=given.seconds, seed=given.seed)
    counts = ", ".join(f"{outcome} {number:,}" for outcome, number in tally.outcomes.most_common())
    print(f"{tally.inputs:,} inputs: {counts}")
    return 1 if tally.saved else 0


if __name__ == "__main__":
    sys.exit(main())
