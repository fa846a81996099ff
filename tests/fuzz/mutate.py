"""Makes hostile packs of valid ones: bytes, entries, deltas, counts and order are changed, and the trailer fits."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from tests.fuzz.model import Entry, entries_of, pack_of, relinked
from tests.support.packs import FILE, FOLDER, GITLINK, LINK, OFS_DELTA, PROGRAM, REF_DELTA, sealed, varint

PIECES: Final = (
    b"",
    b"\0",
    b"\xff" * 12,
    b"\x80",
    b"\n",
    b"/",
    b"..",
    b".git",
    b"GIT~1",
    b"../../x",
    b"/etc/passwd",
    b"\x1b[31m",
    *(mode + b" " for mode in (FILE, FOLDER, GITLINK, LINK, PROGRAM, b"0", b"777777777777777777777")),
    b"100644 x\0" + b"1" * 20,
    b"tree " + b"0" * 40 + b"\n",
    b"parent " + b"1" * 40 + b"\n",
    b"object ",
    b"type commit\n",
    b"x" * 300,
    varint(2**31),
    varint(2**63),
)
NUMBERS: Final = (0, 1, 2, 15, 16, 127, 128, 255, 65_535, 65_536, 2**24, 2**31, 2**32 - 1, 2**40, 2**64, 2**69)

Mutation = Callable[[bytes, random.Random], bytes]


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Return a changed pack; most changes leave the rest readable, so that they reach far."""
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 5))):
        content = chance.choice(MUTATIONS)(content, chance)
    return content


def of_bytes(content: bytes, chance: random.Random) -> bytes:
    """Return other bytes, without any regard for what they mean."""
    if not content:
        return content
    return bytes(_scrambled(content, chance))


def of_bytes_with_trailer(content: bytes, chance: random.Random) -> bytes:
    """Return other bytes under a trailer that belongs to them."""
    return sealed(_scrambled(content[:-20], chance))


def of_length(content: bytes, chance: random.Random) -> bytes:
    """Cut the pack off, or go on after its end."""
    cut = content[: chance.randrange(len(content) + 1)]
    return chance.choice((cut, sealed(cut), content + chance.choice(PIECES), content + content))


def of_content(content: bytes, chance: random.Random) -> bytes:
    """Change what one object says; whoever refers to it still does."""

    def change(entries: list[Entry]) -> list[Entry]:
        position = chance.randrange(len(entries))
        return relinked(entries, position, _scrambled(entries[position].content, chance))

    return _with_entries(content, change)


def of_sizes(content: bytes, chance: random.Random) -> bytes:
    """Let a header tell another size."""

    def change(entries: list[Entry]) -> list[Entry]:
        one = chance.randrange(len(entries))
        size = chance.choice((*NUMBERS, len(entries[one].content) + 1, max(0, len(entries[one].content) - 1)))
        return _replaced(entries, one, replace(entries[one], size=size))

    return _with_entries(content, change)


def of_bases(content: bytes, chance: random.Random) -> bytes:
    """Give a delta another base, or make a delta of what is none."""

    def change(entries: list[Entry]) -> list[Entry]:
        deltas = [at for at, one in enumerate(entries) if one.kind >= OFS_DELTA]
        one = chance.choice(deltas or range(len(entries)))
        other = chance.choice(entries)
        kind = chance.choice((OFS_DELTA, REF_DELTA, entries[one].kind))
        distance = chance.choice((*NUMBERS, entries[one].distance + chance.randrange(-3, 4), len(other.encoded())))
        base = chance.choice((other.object_id, entries[one].base, entries[one].object_id, bytes(20)))
        if kind == REF_DELTA and len(base) != 20:
            base = other.object_id
        return _replaced(entries, one, replace(entries[one], kind=kind, distance=max(0, distance), base=base))

    return _with_entries(content, change)


def of_order(content: bytes, chance: random.Random) -> bytes:
    """Double, drop, swap or shuffle entries."""

    def change(entries: list[Entry]) -> list[Entry]:
        one, other = chance.randrange(len(entries)), chance.randrange(len(entries))
        swapped = list(entries)
        swapped[one], swapped[other] = swapped[other], swapped[one]
        return chance.choice(
            (
                swapped,
                entries[:one] + entries[one + 1 :],
                [*entries[:one], entries[other], *entries[one:]],
                chance.sample(entries, len(entries)),
                entries * chance.randrange(1, 4),
            )
        )

    return _with_entries(content, change)


def of_kinds(content: bytes, chance: random.Random) -> bytes:
    """Let an object be of another type."""

    def change(entries: list[Entry]) -> list[Entry]:
        one = chance.randrange(len(entries))
        return _replaced(entries, one, replace(entries[one], kind=chance.randrange(8)))

    return _with_entries(content, change)


def of_count(content: bytes, chance: random.Random) -> bytes:
    """Let the pack's header tell another count."""
    entries = entries_of(content)
    count = chance.choice((0, 1, len(entries) - 1, len(entries) + 1, 1_000, 1_001, 2**31, 2**32 - 1))
    return pack_of(entries, count=max(0, count))


MUTATIONS: Final[Sequence[Mutation]] = (
    of_bytes,
    of_bytes_with_trailer,
    of_bytes_with_trailer,
    of_length,
    *[of_content] * 6,
    of_sizes,
    *[of_bases] * 3,
    *[of_order] * 2,
    of_kinds,
    of_count,
)


def _with_entries(content: bytes, change: Callable[[list[Entry]], list[Entry]]) -> bytes:
    entries = entries_of(content)
    return pack_of(change(entries)) if entries else content


def _replaced(entries: list[Entry], position: int, one: Entry) -> list[Entry]:
    return [*entries[:position], one, *entries[position + 1 :]]


def _scrambled(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(content) + 1)
    end = min(len(content), at + chance.choice((0, 1, 1, 2, 4, 20, 21, 40, 100)))
    piece = chance.choice(
        (
            bytes([chance.randrange(256)]),
            chance.randbytes(end - at),
            bytes(byte ^ 1 << chance.randrange(8) for byte in content[at:end]),
            chance.choice(PIECES),
            content[at:end] * chance.choice((2, 2, 50)),
            _taken(content, chance),
        )
    )
    return content[:at] + piece + content[end:]


def _taken(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(content) + 1)
    return content[at : at + chance.randrange(1, 60)]
