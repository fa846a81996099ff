"""The index is the same whichever process writes it, and there is none of a pack that lacks something."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from coderepos.exceptions import UnsafeRepository
from coderepos.git.pack import indexer as indexer_module
from coderepos.git.pack.index import index_of
from coderepos.git.pack.pack_file import Pack
from coderepos.git.process.fork import Forked
from tests.support import packs
from tests.support.build_child import built_here, outcome_of
from tests.support.packs import FILE, Line, blob, commit

TREE = packs.tree(Line(FILE, b"file", blob().id))
HEAD = commit(TREE)
MISSING = "1" * 40


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """Return what second processes were started for; even the smallest pack gets one."""
    calls: list[Callable[[], None]] = []

    class Counted(Forked):
        def __init__(self, call: Callable[[], None]) -> None:
            calls.append(call)
            super().__init__(call)

    monkeypatch.setattr(indexer_module, "Forked", Counted)
    monkeypatch.setattr(indexer_module, "_MIN_SHARED_OBJECTS", 1)
    monkeypatch.setattr(indexer_module, "cores", lambda: 2)
    return calls


def index_in(incoming: Path) -> bytes:
    """Return the index of the only pack below a folder."""
    (path,) = incoming.glob("git/objects/pack/*.idx")
    return path.read_bytes()


def test_a_second_process_writes_the_same_index(
    tmp_path: Path, started: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process or two."""
    content = packs.pack([blob(), TREE, HEAD])
    built_here(tmp_path / "two", content, outcome_of(content, HEAD))
    assert len(started) == 1
    monkeypatch.setattr(indexer_module, "cores", lambda: 1)
    built_here(tmp_path / "one", content, outcome_of(content, HEAD))

    assert len(started) == 1
    assert index_in(tmp_path / "two") == index_in(tmp_path / "one")


def test_what_is_missing_is_named_as_by_one_process(tmp_path: Path, started: list[object]) -> None:
    """The second process finds out, and this one says so."""
    head = commit(TREE, MISSING)
    content = packs.pack([blob(), TREE, head])
    with pytest.raises(UnsafeRepository) as caught:
        built_here(tmp_path / "incoming", content, outcome_of(content, head))

    assert (len(started), caught.value.fields) == (1, {"reason": "object missing"})


def test_a_second_process_that_fails_is_stood_in_for(
    tmp_path: Path, started: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one process lacked, the other one may have."""
    parent = os.getpid()

    def failing(pack: Pack) -> bytes:
        if os.getpid() != parent:
            raise MemoryError
        return index_of(pack)

    monkeypatch.setattr(indexer_module, "index_of", failing)
    content = packs.pack([blob(), TREE, HEAD])
    built_here(tmp_path / "incoming", content, outcome_of(content, HEAD))

    assert len(started) == 1
    assert index_in(tmp_path / "incoming")
