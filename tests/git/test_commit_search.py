"""Whether a small pack holds a commit is known for certain, or not at all."""

from __future__ import annotations

import random
import resource
import time
from dataclasses import replace
from pathlib import Path

import pytest

from coderepos.exceptions import RefNotFound
from coderepos.git.clone import CHILD_MODULES, CloneRequest
from coderepos.git.commit_search import has_no_commit
from coderepos.git.confinement import landlock, profiles
from coderepos.git.limits import SEARCHED_PACK_BYTES, Limits
from coderepos.git.probe import probe
from coderepos.git.wire import BuildRequest, SearchRequest
from tests.support import packs
from tests.support.packs import FILE, Line, blob
from tests.support.reference_git import repository_of
from tests.support.servers.git_http_backend import GitServer

ROOT = packs.tree(Line(FILE, b"file", blob().id))
HEAD = packs.commit(ROOT)


DELTA = packs.delta(8, 8, packs.copy(0, 8))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (packs.pack([blob()]), True),
        (packs.pack([packs.tag(blob()), blob()]), True),
        (packs.pack([packs.tag(ROOT), ROOT, blob()]), True),
        (packs.pack([blob(bytes(200_000))]), True),
        (packs.pack([blob()], raw=[packs.ofs_delta(len(packs.entry(blob())), DELTA)]), True),
        (packs.pack([blob()], raw=[packs.ref_delta(blob().id, DELTA)]), True),
        (packs.pack([]), True),
        (packs.pack([HEAD]), False),
        (packs.pack([packs.tag(HEAD), HEAD, ROOT, blob()]), False),
        (packs.pack([blob(), ROOT, HEAD]), False),
        # Not known.
        (b"", False),
        (b"no pack", False),
        (packs.pack([blob()])[:-1], False),
        (packs.pack([blob()]) + b"x", False),
        (packs.pack([blob(random.Random(1).randbytes(SEARCHED_PACK_BYTES))]), False),
        (packs.pack([blob(bytes(20 * 10**6))]), False),
        (packs.sealed(packs.header(1) + b"\xff" * 40), False),
        (packs.sealed(packs.header(2**32 - 1) + packs.entry(blob())), False),
        (packs.sealed(packs.header(1) + packs.entry(blob())[:-6]), False),
    ],
    ids=lambda value: str(len(value)) if isinstance(value, bytes) else str(value),
)
def test_certain_or_unknown(content: bytes, expected: bool) -> None:
    """Only a whole pack without a commit is one."""
    assert has_no_commit(content) is expected


def test_no_changed_byte_raises() -> None:
    """Whatever a server sends, the search says yes or no."""
    content, chance = packs.pack([packs.tag(ROOT), ROOT, blob()]), random.Random(3)
    for _ in range(3_000):
        changed = bytearray(content)
        changed[chance.randrange(len(changed))] = chance.randrange(256)
        has_no_commit(bytes(changed))


def test_many_small_entries_cost_little() -> None:
    """Time is that of the bytes, whatever they are."""
    content = packs.pack([blob()] * 12_000)
    assert len(content) < SEARCHED_PACK_BYTES
    started = time.process_time()
    assert has_no_commit(content)
    assert has_no_commit(packs.pack([blob(bytes(7 * 10**6))]))
    assert time.process_time() - started < 1


def test_it_may_do_less_than_the_build_child() -> None:
    """It reads and writes no file, and every call that it may make build may make too."""
    limits = Limits()
    search = profiles.search_profile(SearchRequest(limits=limits, min_level=3))
    build = profiles.build_profile(BuildRequest(incoming="/nowhere", limits=limits, min_level=3))

    assert search.allowed_calls.keys() < build.allowed_calls.keys()
    assert search.rules == landlock.Rules()
    assert search.limits[resource.RLIMIT_FSIZE] == (0, 0)


def test_it_is_started_for_what_is_no_branch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A branch costs no third process; where the search dies, the probe leaves the answer to the clone."""
    tag = packs.tag(blob())
    refs = {"refs/heads/main": HEAD.id, "refs/tags/blob": tag.id}
    repository_of(tmp_path / "served/tags.git", [blob(), ROOT, HEAD, tag], refs)
    broken = replace(CHILD_MODULES, search="coderepos.git.no_such_module")
    with GitServer(tmp_path / "served") as host:
        wanted = CloneRequest(
            url=host.url("tags.git"),
            credentials=None,
            ref="",
            depth=None,
            policy=host.policy(),
            limits=Limits(),
            min_level=1,
            group_readable=False,
        )

        probe(replace(wanted, ref="main"), seconds=20, modules=broken)
        assert "search child" not in caplog.text
        probe(replace(wanted, ref="blob"), seconds=20, modules=broken)
        assert "search child ended without an answer" in caplog.text
        with pytest.raises(RefNotFound):
            probe(replace(wanted, ref="blob"), seconds=20)
