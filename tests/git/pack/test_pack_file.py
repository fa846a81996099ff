"""Reading packs and writing their indexes; the real git is the reference."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coderepos.exceptions import (
    InflatedTooLarge,
    LimitExceeded,
    ObjectTooLarge,
    RemoteProtocolError,
    RepositoryTooLarge,
    TooManyObjects,
)
from coderepos.git.limits import Limits
from coderepos.git.pack import delta as delta_module
from coderepos.git.pack import delta_tree as delta_tree_module
from coderepos.git.pack import index as pack_index
from coderepos.git.pack import resolver as resolving_module
from coderepos.git.pack import stream_order as stream_order_module
from coderepos.git.pack.delta import apply_delta, apply_delta_in_pieces
from coderepos.git.pack.object_links import Links
from coderepos.git.pack.pack_file import Pack
from coderepos.git.pack.resolver import Resolver
from coderepos.git.pack.scanner import PackScanner
from coderepos.git.process.fork import Forked
from tests.support import packs
from tests.support.build_child import LIMITS, index_of, scanned
from tests.support.git import git_bytes
from tests.support.packs import blob, copy, delta, entry, insert, ofs_delta, ref_delta


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with long delta chains, empty files, zeros in multiples of 64 KiB and tags."""
    folder = tmp_path_factory.mktemp("history")
    work = folder / "work"
    git_bytes("init", "-q", "-b", "main", work)
    at = work / ".git"
    chance = random.Random(1)
    lines = [chance.randbytes(20).hex() for _ in range(200)]
    for number in range(60):
        lines[chance.randrange(200)] = chance.randbytes(20).hex()
        (work / "long.txt").write_text("\n".join(lines))
        (work / f"folder{number % 5}").mkdir(exist_ok=True)
        (work / f"folder{number % 5}" / f"{number}.txt").write_text(lines[number] * number)
        if number == 30:
            (work / "empty").touch()
            for blocks in (1, 2, 16):
                (work / f"zeros{blocks}").write_bytes(bytes(65_536 * blocks))
            (work / "noise").write_bytes(chance.randbytes(3_000_000))
        git_bytes("-C", work, "add", "-A")
        git_bytes("-C", work, "commit", "-q", "-m", f"Commit {number}")
    git_bytes("tag", "-a", "-m", "one", "v1", at=at)
    git_bytes("tag", "-a", "-m", "tag of a tag", "v2", "v1", at=at)
    git_bytes("tag", "light", at=at)
    return at


def packed(history: Path, *options: str) -> bytes:
    """Return all of a repository as one pack."""
    return git_bytes("pack-objects", "-q", "--stdout", "--all", "--revs", *options, at=history)


def git_index(content: bytes, folder: Path) -> bytes:
    """Return the index that git makes of a pack."""
    (folder / "git.pack").write_bytes(content)
    git_bytes("index-pack", folder / "git.pack")
    return (folder / "git.idx").read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--delta-base-offset",), id="offset deltas"),
        pytest.param((), id="deltas by id"),
        pytest.param(("--no-reuse-delta", "--depth=0"), id="no deltas"),
        pytest.param(("--no-reuse-delta", "--depth=200", "--window=50", "--delta-base-offset"), id="deep chains"),
        pytest.param(("--no-reuse-object", "--compression=0"), id="stored"),
    ],
)
@pytest.mark.parametrize("delta_memory", [32_000_000, 1_000, 0])
def test_an_index_is_the_one_that_git_writes(
    history: Path, tmp_path: Path, options: tuple[str, ...], delta_memory: int
) -> None:
    """Packs of every kind get the index of ``git index-pack``, byte by byte, wherever the deltas were kept."""
    content = packed(history, *options)
    assert index_of(content, Limits(delta_memory_bytes=delta_memory)) == git_index(content, tmp_path)


def test_an_empty_pack_has_an_index(tmp_path: Path) -> None:
    """A pack without objects is read."""
    content = packs.pack()
    assert index_of(content) == git_index(content, tmp_path)


def test_version_three_is_read(tmp_path: Path) -> None:
    """Git reads version 3, which has the same format."""
    content = packs.sealed(packs.header(1, version=3) + entry(blob()))
    with scanned(content) as pack:
        assert pack.object_id(0).hex() == blob().id


def test_a_chain_of_twenty_thousand_deltas_is_resolved(tmp_path: Path) -> None:
    """Nothing recurses along a chain, forwards by offset or backwards by id."""
    count = 20_000
    first = blob(b"%08d" % 0)
    step = entry(first)
    entries = [step]
    for number in range(1, count):
        step = ofs_delta(len(step), delta(8, 8, insert(b"%08d" % number)))
        entries.append(step)
    forwards = packs.pack(raw=entries)
    by_id = [
        ref_delta(blob(b"%08d" % (number - 1)).id, delta(8, 8, insert(b"%08d" % number))) for number in range(1, count)
    ]
    backwards = packs.pack(raw=[*reversed(by_id), entry(first)])
    for content in (forwards, backwards):
        with scanned(content) as pack:
            assert bytes(pack.ids).count(bytes.fromhex(blob(b"%08d" % (count - 1)).id)) == 1
            assert {pack.object_id(position) for position in (0, 1, count - 1)} <= {
                bytes.fromhex(blob(b"%08d" % number).id) for number in range(count)
            }
    assert index_of(forwards) == git_index(forwards, tmp_path)


@pytest.mark.parametrize("delta_memory", [32_000_000, 20_000, 0])
def test_what_is_evicted_is_read_from_the_file(history: Path, delta_memory: int) -> None:
    """Every entry is the same whether it is cached, was evicted, or never had room."""
    with scanned(packed(history, "--delta-base-offset"), Limits(delta_memory_bytes=delta_memory)) as pack:

        def entries() -> list[bytes]:
            return [pack.delta(one) if base >= 0 else pack.undeltified(one) for one, base in enumerate(pack.bases)]

        cached = entries()
        for end in (0, 1, len(pack) // 3, len(pack) // 3, len(pack)):
            pack.evict(end)
            assert pack.evicted_bytes == pack.cache_ends[end]
            assert entries() == cached
        assert pack.evicted_bytes == pack.cached_bytes


@pytest.mark.parametrize("cores", [1, 2])
def test_two_processes_make_the_same_index(
    history: Path, tmp_path: Path, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deltas may be resolved by a second process."""
    monkeypatch.setattr(resolving_module, "cores", lambda: cores)
    monkeypatch.setattr(resolving_module, "_MIN_BATCH_WORK", 1)
    content = packed(history, "--delta-base-offset")
    assert index_of(content) == git_index(content, tmp_path)


def test_a_second_process_works_while_the_pack_arrives(history: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its batch is done before the scan ends, and nothing is deferred to the slower walk."""
    started: list[int] = []

    class Counted(Forked):
        def __init__(self, call: Callable[[], None]) -> None:
            started.append(len(pack))
            super().__init__(call)

    monkeypatch.setattr(resolving_module, "Forked", Counted)
    monkeypatch.setattr(resolving_module, "cores", lambda: 2)
    monkeypatch.setattr(resolving_module, "_MIN_BATCH_WORK", 1)
    walked: list[range] = []

    def noted(_delta_tree: delta_tree_module.DeltaTree, positions: range, _links: Links) -> None:
        walked.append(positions)

    monkeypatch.setattr(delta_tree_module.DeltaTree, "resolve", noted)
    content = packed(history, "--delta-base-offset")
    source, file = packs.descriptor(content), packs.descriptor()
    pack = Pack(file)
    with Resolver(pack, LIMITS) as resolver:
        PackScanner(source, pack, LIMITS, lambda _done, _total: resolver.advance()).scan()
        resolver.finish()
    os.close(source)
    os.close(file)
    assert started
    assert min(started) < len(pack)
    assert not any(walked)
    assert not [position for position in range(len(pack)) if not any(pack.object_id(position))]


def test_a_pack_whose_bases_are_far_away_gets_the_same_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the order of the stream does not help, the delta trees are walked."""
    monkeypatch.setattr(stream_order_module, "_CACHE_BYTES", 1_000)
    monkeypatch.setattr(stream_order_module, "_SLACK_WORK", 0)
    entries = [entry(blob(bytes([number]) * 900)) for number in range(50)]
    starts = [sum(map(len, entries[:number])) for number in range(50)]
    end = sum(map(len, entries))
    for number in range(100):
        made = delta(900, 902, copy(0, 900), insert(b"%02d" % number))
        entries.append(ofs_delta(end - starts[number % 50], made))
        end += len(entries[-1])
    content = packs.pack(raw=entries)
    left: list[range] = []
    walk = delta_tree_module.DeltaTree.resolve

    def noted(delta_tree: delta_tree_module.DeltaTree, positions: range, links: Links) -> None:
        left.append(positions)
        walk(delta_tree, positions, links)

    monkeypatch.setattr(delta_tree_module.DeltaTree, "resolve", noted)
    assert index_of(content) == git_index(content, tmp_path)
    assert any(left)


def test_many_small_objects_cost_no_square() -> None:
    """Evicting the oldest cached object takes the same time however many were evicted before."""
    order = stream_order_module.StreamOrder(Pack(-1), Links(0))
    started = time.process_time()
    for position in range(450_000):
        order._cache(position, bytes(200))
    assert time.process_time() - started < 2.5


@pytest.mark.slow
def test_a_chain_of_large_objects_costs_no_square() -> None:
    """Objects too large for the cache are not rebuilt for each delta on them, however many small ones pay for it."""
    size, depth = 15_000_000, 60
    same = delta(size, size, *(copy(start, min(0xFFFFFF, size - start)) for start in range(0, size, 0xFFFFFF)))
    fillers = b"".join(entry(blob(b"%d" % number)) for number in range(depth))
    step = entry(blob(bytes(size)))
    entries = [step]
    for _ in range(depth):
        entries.append(fillers)
        entries.append(step := ofs_delta(len(step) + len(fillers), same))
    raw = b"".join(entries)
    content = packs.sealed(packs.header(1 + depth * (depth + 1)) + raw)
    started = time.process_time()
    with scanned(content, Limits(inflated_floor_bytes=10**10)):
        assert time.process_time() - started < 4  # 6 s before, and four times that for twice the depth


@pytest.mark.parametrize("broken", [0, 1])
def test_a_bad_delta_is_named_whichever_process_meets_it(broken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of the second process is raised by the first."""
    monkeypatch.setattr(resolving_module, "cores", lambda: 2)
    monkeypatch.setattr(resolving_module, "_MIN_BATCH_WORK", 1)
    entries = []
    for number in range(2):
        base = entry(blob(b"base %d" % number))
        size = 7 if number == broken else 6
        entries += [base, ofs_delta(len(base), delta(size, 6, copy(0, 6)))]
    with pytest.raises(RemoteProtocolError) as caught, scanned(packs.pack(raw=entries)):
        pass
    assert caught.value.fields == {"reason": "instructions of a delta"}


def test_many_children_far_apart_are_resolved_within_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bases that were evicted to save memory are rebuilt, and the result is the same."""
    monkeypatch.setattr(delta_tree_module, "_STACK_BYTES", 2_500)
    monkeypatch.setattr(stream_order_module, "_CACHE_BYTES", 2_500)
    chance = random.Random(2)
    contents = [chance.randbytes(1_000)]
    entries, starts = [entry(blob(contents[0]))], [0]
    for number in range(1, 200):
        base = number - 1 if number % 2 else max(0, number - 3)
        changed = contents[base][:500] + chance.randbytes(20) + contents[base][520:]
        distance = sum(map(len, entries[base:]))
        instructions = (copy(0, 500), insert(changed[500:520]), copy(520, 480))
        entries.append(ofs_delta(distance, delta(1_000, 1_000, *instructions)))
        contents.append(changed)
        starts.append(number)
    content = packs.pack(raw=entries)
    assert index_of(content) == git_index(content, tmp_path)


def comb(depth: int, size: int, growth: int = 0) -> bytes:
    """Return a chain of deltas with one more child at each step, so that all of it stays on the stack.

    :param growth: eightfold growths of the object at the end of the chain; children of the last one follow.
    """
    step = entry(blob(b"%08d" % 0 + bytes(size - 8)))
    entries, at, base_at = [step], len(step), 0

    def add(base_bytes: int, *instructions: bytes, result_bytes: int) -> int:
        nonlocal at
        start = at
        entries.append(ofs_delta(at - base_at, delta(base_bytes, result_bytes, *instructions)))
        at += len(entries[-1])
        return start

    rest = [copy(8, size - 8)] if size > 8 else []
    for number in range(1, depth):
        add(size, insert(b"L%07d" % number), *rest, result_bytes=size)
        base_at = add(size, insert(b"%08d" % number), *rest, result_bytes=size)
    for number in range(growth + 4 if growth else 0):
        whole = [copy(start, min(0xFFFFFF, size - start)) for start in range(0, size, 0xFFFFFF)]
        times = 8 if number < growth else 1
        add(size, insert(b"M%07d" % number), result_bytes=8)
        base_at = add(size, *whole * times, result_bytes=size * times)
        size *= times
    return packs.pack(raw=entries)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: comb(60_000, 1_000), id="many evicted"),
        pytest.param(lambda: comb(10_000, 8, growth=7), id="small ones evicted for a large one"),
    ],
)
def test_a_long_chain_with_children_at_each_step_costs_little(make: Callable[[], bytes]) -> None:
    """The time to evict and rebuild bases does not grow with the square of the chain."""
    content, started = make(), time.process_time()
    with pytest.raises(InflatedTooLarge), scanned(content):
        pass
    assert time.process_time() - started < 15  # 21 s before; twice the time where coverage is measured


def test_rebuilding_evicted_bases_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comb of branches that would be rebuilt again and again ends with our error."""
    monkeypatch.setattr(delta_tree_module, "_STACK_BYTES", 1)
    monkeypatch.setattr(stream_order_module, "_CACHE_BYTES", 1)
    base = bytes(10_000)
    same = delta(10_000, 10_000, copy(0, 10_000))
    entries = [entry(blob(base))]
    for level in range(60):
        parent = 2 * level
        entries.append(ofs_delta(sum(map(len, entries[parent:])), same))
        entries.append(ofs_delta(sum(map(len, entries[parent:])), same))
    limits = Limits(inflated_floor_bytes=2_000_000, inflated_ratio=1)
    with pytest.raises(InflatedTooLarge), scanned(packs.pack(raw=entries), limits):
        pass


class Packets:
    """A descriptor whose reads end where the sender's pieces ended."""

    def __init__(self, *pieces: bytes) -> None:
        self._reader, self._writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._thread = threading.Thread(target=self._send, args=(pieces,))

    def __enter__(self) -> int:
        self._thread.start()
        return self._reader.fileno()

    def __exit__(self, *_: object) -> None:
        self._reader.close()
        self._thread.join()

    def _send(self, pieces: tuple[bytes, ...]) -> None:
        with self._writer:
            for piece in pieces:
                self._writer.send(piece)


def index_of_pieces(*pieces: bytes, limits: Limits = LIMITS) -> bytes:
    """Return the index of a pack that arrives in these pieces."""
    file = packs.descriptor()
    try:
        with Packets(*pieces) as source:
            pack = Pack(file)
            PackScanner(source, pack, limits).scan()
        with Resolver(pack, limits) as resolver:
            resolver.finish()
        assert os.pread(file, 1_000_000, 0) == b"".join(pieces)
        return pack_index.index_of(pack)
    finally:
        os.close(file)


@pytest.fixture
def small_pack() -> bytes:
    """A pack with every kind of object and of delta, an empty blob among them."""
    one = blob(b"one\n" * 300)
    root = packs.tree(packs.Line(packs.FILE, b"one", one.id), packs.Line(packs.FILE, b"empty", blob(b"").id))
    head = packs.commit(root)
    first = [*map(entry, (head, packs.tag(head), blob(b""))), entry(root), entry(one)]
    by_offset = ofs_delta(len(first[-1]), delta(1_200, 1_204, copy(0, 1_200), insert(b"two\n")))
    by_id = ref_delta(one.id, delta(1_200, 4, insert(b"tiny")))
    return packs.pack(raw=[*first, by_offset, by_id])


def test_a_pack_may_arrive_in_any_two_pieces(small_pack: bytes, tmp_path: Path) -> None:
    """Wherever the stream is cut, the result is the same."""
    expected = git_index(small_pack, tmp_path)
    for cut in range(1, len(small_pack)):
        assert index_of_pieces(small_pack[:cut], small_pack[cut:]) == expected


@pytest.mark.parametrize("delta_memory", [1_000, 0])
def test_a_pack_may_arrive_byte_by_byte(small_pack: bytes, tmp_path: Path, delta_memory: int) -> None:
    """The smallest pieces make the same index, wherever the deltas are kept."""
    pieces = [bytes([byte]) for byte in small_pack]
    limits = Limits(delta_memory_bytes=delta_memory)
    assert index_of_pieces(*pieces, limits=limits) == git_index(small_pack, tmp_path)


def test_a_pack_that_ends_early_is_refused_wherever_it_ends(small_pack: bytes) -> None:
    """A cut stream is never taken for a whole one."""
    for end in range(len(small_pack)):
        with pytest.raises(RemoteProtocolError), scanned(small_pack[:end]):
            pass


def mutations(content: bytes) -> Iterator[bytes]:
    """Yield copies with one byte changed, by three masks each."""
    for at in range(len(content)):
        for mask in (0x01, 0x80, 0xFF):
            yield content[:at] + bytes([content[at] ^ mask]) + content[at + 1 :]


def test_any_changed_byte_is_noticed(small_pack: bytes) -> None:
    """With the trailer as it was, every change is refused with an error of ours."""
    for changed in mutations(small_pack):
        with pytest.raises((RemoteProtocolError, LimitExceeded)), scanned(changed):
            pass


def test_any_changed_byte_under_a_right_trailer_is_harmless(small_pack: bytes) -> None:
    """With the trailer made for it, a changed pack gives an index or an error of ours."""
    refused = 0
    for changed in mutations(small_pack[:-20]):
        try:
            index_of(packs.sealed(changed))
        except (RemoteProtocolError, LimitExceeded):
            refused += 1
    assert refused > len(small_pack)


BASE = blob(b"0123456789")
ENDLESS = b"\xff" * 1_000_000


def one_entry(content: bytes) -> bytes:
    """Return a pack that says it has one entry."""
    return packs.sealed(packs.header(1) + content)


def on_base(content: bytes) -> Callable[[], bytes]:
    """Return a pack of a ten-byte blob and a delta on it."""
    return lambda: packs.pack([BASE], raw=[ref_delta(BASE.id, content)])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda: b"", "pack ends early", id="nothing"),
        pytest.param(lambda: packs.sealed(packs.header(0, magic=b"KCAP")), "no pack", id="magic"),
        pytest.param(lambda: packs.sealed(packs.header(0, version=4)), "no pack", id="version"),
        pytest.param(lambda: packs.pack([BASE]) + b"x", "bytes after the pack", id="long"),
        pytest.param(lambda: packs.pack([BASE])[:-1] + b"x", "pack checksum", id="trailer"),
        pytest.param(lambda: one_entry(b"\xb0" + ENDLESS), "size of an entry", id="endless size"),
        pytest.param(lambda: one_entry(b"\x60" + ENDLESS), "offset of a delta base", id="endless offset"),
        pytest.param(lambda: one_entry(ofs_delta(0, b"")), "offset of a delta base", id="offset 0"),
        pytest.param(lambda: one_entry(ofs_delta(500, b"")), "offset of a delta base", id="offset before the pack"),
        pytest.param(lambda: packs.pack([BASE], raw=[ofs_delta(1, b"")]), "offset of a delta base", id="offset inside"),
        pytest.param(lambda: one_entry(b"\x01" + entry(BASE)[1:]), "type of an entry", id="type 0"),
        pytest.param(lambda: one_entry(b"\x51" + entry(BASE)[1:]), "type of an entry", id="type 5"),
        pytest.param(lambda: one_entry(b"\x3a" + b"not zlib" * 9), "zlib stream of an entry", id="not zlib"),
        pytest.param(lambda: one_entry(b"\x39" + entry(BASE)[1:]), "entry longer than its size", id="longer"),
        pytest.param(lambda: one_entry(b"\x30" + entry(BASE)[1:]), "entry longer than its size", id="longer than 0"),
        pytest.param(lambda: one_entry(b"\x3b" + entry(BASE)[1:]), "entry shorter than its size", id="shorter"),
        pytest.param(lambda: one_entry(ref_delta("1" * 40, delta(1, 1, copy(0, 1)))), "base of a delta", id="thin"),
        pytest.param(
            lambda: packs.pack(
                raw=[ref_delta("2" * 40, delta(1, 1, copy(0, 1))), ref_delta("1" * 40, delta(1, 1, copy(0, 1)))]
            ),
            "base of a delta",
            id="no base at all",
        ),
        pytest.param(on_base(b""), "header of a delta", id="empty delta"),
        pytest.param(on_base(b"\x0a"), "header of a delta", id="delta without result size"),
        pytest.param(on_base(b"\x0a" + ENDLESS), "header of a delta", id="endless result size"),
        pytest.param(on_base(delta(9, 1, copy(0, 1))), "instructions of a delta", id="other base size"),
        pytest.param(on_base(delta(10, 10, copy(5, 6))), "instructions of a delta", id="copy from outside"),
        pytest.param(on_base(delta(10, 10, copy(2**32 - 1, 5))), "instructions of a delta", id="copy from far outside"),
        pytest.param(on_base(delta(2**40, 10, copy(0, 10))), "instructions of a delta", id="size of a huge base"),
        pytest.param(
            on_base(delta(10, 10, copy(0, 10), copy(500, 5000))), "instructions of a delta", id="last copy from outside"
        ),
        pytest.param(
            on_base(delta(10, 10, copy(0, 10), copy(0, 5))), "instructions of a delta", id="last copy past the result"
        ),
        pytest.param(on_base(delta(10, 5, copy(0, 6))), "instructions of a delta", id="too much copied"),
        pytest.param(on_base(delta(10, 2, insert(b"abc"))), "instructions of a delta", id="too much inserted"),
        pytest.param(on_base(delta(10, 7, copy(0, 6))), "instructions of a delta", id="too little"),
        pytest.param(on_base(delta(10, 3, b"\x05abc")), "instructions of a delta", id="insert cut off"),
        pytest.param(on_base(delta(10, 3, copy(0, 2), b"\x90")), "instructions of a delta", id="copy cut off"),
        pytest.param(on_base(delta(10, 0, b"\xb0")), "header of a delta", id="delta of three bytes"),
        pytest.param(on_base(delta(10, 1, insert(b"x"), b"\xb0")), "instructions of a delta", id="copy without sizes"),
        pytest.param(on_base(delta(10, 4, b"\x05abc")), "instructions of a delta", id="insert of two bytes too few"),
        pytest.param(on_base(delta(10, 3, b"\0abc")), "instructions of a delta", id="reserved instruction"),
    ],
)
@pytest.mark.parametrize("compiled", [True, False])
def test_a_malformed_pack_is_refused(
    make: Callable[[], bytes], reason: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each malformed pack is refused for its own reason, by dulwich's compiled deltas and by our own."""
    if not compiled:
        monkeypatch.setattr(delta_module, "_apply_compiled", None)
    with pytest.raises(RemoteProtocolError) as caught, scanned(make()):
        pass
    assert caught.value.fields == {"reason": reason}


def test_a_cycle_of_deltas_is_refused() -> None:
    """Deltas that are each other's bases have none: an id can't be known before its content."""
    cycle = [ref_delta("1" * 40, delta(1, 1, copy(0, 1))), ref_delta("1" * 40, delta(1, 1, copy(0, 1)))]
    with pytest.raises(RemoteProtocolError), scanned(packs.pack([BASE], raw=cycle)):
        pass


@pytest.mark.parametrize(
    ("content", "limits", "error"),
    [
        (packs.sealed(packs.header(2**32 - 1)), Limits(), TooManyObjects(figure=2**32 - 1, limit=500_000)),
        (packs.pack([BASE, blob()]), Limits(objects=1), TooManyObjects(figure=2, limit=1)),
        (packs.pack([BASE]), Limits(object_bytes=9), ObjectTooLarge(figure=10, limit=9)),
        (
            packs.pack([BASE], raw=[ref_delta(BASE.id, delta(10, 2**40, copy(0, 9)))]),
            Limits(),
            ObjectTooLarge(figure=2**40, limit=100_000_000),
        ),
        (
            packs.pack([BASE] * 11),
            Limits(inflated_floor_bytes=100, inflated_ratio=0),
            InflatedTooLarge(figure=110, limit=100),
        ),
        (
            packs.pack([BASE], raw=[ref_delta(BASE.id, delta(10, 100, *[copy(0, 10)] * 10))]),
            Limits(inflated_floor_bytes=100, inflated_ratio=0),
            InflatedTooLarge(figure=132, limit=100),
        ),
        (packs.pack([BASE]), Limits(wire_bytes=50), RepositoryTooLarge(figure=51, limit=50)),
    ],
    ids=["header", "objects", "object", "result of a delta", "inflated", "inflated results", "wire"],
)
def test_a_passed_limit_is_named_with_both_figures(content: bytes, limits: Limits, error: LimitExceeded) -> None:
    """Every bound is its own error, with what was counted and the bound."""
    with pytest.raises(type(error)) as caught, scanned(content, limits):
        pass
    assert caught.value.fields == error.fields


def test_small_deltas_of_large_trees_may_come_first() -> None:
    """Results of deltas are held against the whole pack, since blobs that pay for them come last in real packs."""
    base = random.Random(5).randbytes(100_000)
    start = delta(100_000, 99_999, copy(0, 0x10000), copy(0x10000, 99_999 - 0x10000))
    entries = [
        entry(blob(base)),
        *[ref_delta(blob(base).id, start)] * 30,
        entry(blob(random.Random(6).randbytes(400_000))),
    ]
    limits = Limits(inflated_floor_bytes=1_000_000, inflated_ratio=8)
    with scanned(packs.pack(raw=entries), limits) as pack:
        assert pack.inflated_bytes > 3_000_000


def test_progress_ends_with_everything() -> None:
    """The last progress names all objects."""
    calls: list[tuple[int, int]] = []
    source, file = packs.descriptor(packs.pack([BASE] * 3)), packs.descriptor()
    PackScanner(source, Pack(file), LIMITS, lambda done, total: calls.append((done, total))).scan()
    os.close(source)
    os.close(file)
    assert calls == [(0, 3), (3, 3)]


def test_both_ways_to_apply_a_delta_agree() -> None:
    """Random deltas give the same result by dulwich's compiled code and by our own, refused ones included."""
    chance = random.Random(3)
    base = chance.randbytes(70_000)
    for _ in range(300):
        instructions, expected = [], b""
        for _ in range(chance.randrange(6)):
            if chance.random() < 0.5:
                start = chance.randrange(len(base))
                size = chance.randrange(1, len(base) - start + 1)
                size = chance.choice((size, min(size, 65_536)))
                instructions.append(copy(start, size if size != 65_536 else 0))
                expected += base[start : start + size]
            else:
                text = chance.randbytes(chance.randrange(1, 300))
                instructions.append(insert(text))
                expected += text
        made = delta(len(base), len(expected), *instructions)
        assert apply_delta(base, made, result_bytes=len(expected)) == expected
        pieces = [made[:20], *(made[at : at + 200] for at in range(20, len(made), 200))]
        assert apply_delta_in_pieces(base, pieces, result_bytes=len(expected)) == expected
