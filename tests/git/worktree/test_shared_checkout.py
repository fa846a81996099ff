"""The second process that writes half of a working tree, and what stops it."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coderepos.exceptions import InflatedTooLarge, InternalError
from coderepos.git.descriptors import write_all
from coderepos.git.pack.delta_tree import DeltaTree
from coderepos.git.process.fork import Forked
from coderepos.git.worktree import checkout as checkout_module
from tests.support import packs
from tests.support.build_child import tree_of
from tests.support.packs import FILE, FOLDER, PROGRAM, Line, Object, blob
from tests.support.users import NOBODY, forked
from tests.support.working_trees import link, listing

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.fixture(autouse=True)
def little_work_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process is started for a few hundred files."""
    monkeypatch.setattr(checkout_module, "_MIN_SHARED_WORK", 1_000_000)


def many_files() -> tuple[list[Line], list[Object], dict[str, bytes]]:
    """Return the lines, objects and contents of a tree worth two processes: large and small files in two folders."""
    contents = {f"{number:03}": b"%03d " % number * (500 if number % 3 else 5) for number in range(300)}
    contents["twice"] = contents["299"]
    contents["pointer"] = POINTER
    modes = {"298": PROGRAM}
    lines = [Line(modes.get(name, FILE), name.encode(), blob(data).id) for name, data in contents.items()]
    lines.append(link(b"zlink", b"twice")[0])
    inner = packs.tree(*lines)
    objects = [*{blob(data).id: blob(data) for data in contents.values()}.values(), link(b"", b"twice")[1], inner]
    contents |= {f"inner/{name}": data for name, data in contents.items()}
    return sorted([*lines, Line(FOLDER, b"inner", inner.id)], key=lambda one: one.name), objects, contents


def assert_written(folder: Path, contents: dict[str, bytes]) -> None:
    """Check that a folder holds :func:`many_files`."""
    expected = dict.fromkeys(contents, "-r--------")
    expected |= dict.fromkeys(("298", "inner/298"), "-r-x------")
    expected |= {"zlink": "-> twice", "inner/zlink": "-> twice", "inner": "dr-x------"}
    assert listing(folder) == expected
    assert {name: (folder / name).read_bytes() for name in contents} == contents


@pytest.mark.parametrize(
    ("cores", "large_bytes", "processes"),
    [
        pytest.param(1, 10**6, 0, id="one core"),
        pytest.param(2, 10**6, 1, id="two cores"),
        pytest.param(2, 5_000, 0, id="a large object, which only one process shall hold"),
    ],
)
def test_two_processes_write_the_same_tree(
    tmp_path: Path, cores: int, large_bytes: int, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the files may be written by a second process; all that is to be told is told."""
    started: list[object] = []

    class Counted(Forked):
        def __init__(self, call: Callable[[], None]) -> None:
            started.append(call)
            super().__init__(call)

    monkeypatch.setattr(checkout_module, "cores", lambda: cores)
    monkeypatch.setattr(checkout_module, "LARGE_BYTES", large_bytes)
    monkeypatch.setattr(checkout_module, "Forked", Counted)
    lines, objects, contents = many_files()
    report = tree_of(tmp_path, *lines, objects=objects)
    assert_written(tmp_path / "tree", contents)
    assert report.substitutions == {"lfs_pointer": 2}
    assert len(started) == processes


def stop(error: int | type[Exception]) -> None:
    """Raise an error, or be killed."""
    if error == signal.SIGKILL:
        os.kill(os.getpid(), signal.SIGKILL)
    raise OSError(error, "stopped") if isinstance(error, int) else error()


@pytest.mark.parametrize("written_files", [0, 1, 50])
@pytest.mark.parametrize(
    ("error", "told"),
    [
        pytest.param(errno.ENOSPC, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), id="full"),
        pytest.param(errno.EEXIST, FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)), id="in the way"),
        pytest.param(MemoryError, OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), id="no memory"),
        pytest.param(signal.SIGKILL, InternalError(), id="killed"),
    ],
)
def test_what_stops_a_second_process_is_told(
    tmp_path: Path,
    error: int | type[Exception],
    told: Exception,
    written_files: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Wherever it stops, the tree is not finished, and nothing that stands in the way is written over."""
    parent = os.getpid()
    written: list[int] = []

    def stopping(descriptor: int, data: bytes) -> None:
        if os.getpid() != parent and len(written) == written_files:
            write_all(descriptor, data[:5])
            stop(error)
        written.append(descriptor)
        write_all(descriptor, data)

    monkeypatch.setattr(checkout_module, "cores", lambda: 2)
    monkeypatch.setattr(checkout_module, "write_all", stopping)
    lines, objects, _contents = many_files()
    with pytest.raises(type(told)) as caught:
        tree_of(tmp_path, *lines, objects=objects)
    assert str(caught.value) == str(told)


def test_an_object_that_only_the_second_process_meets_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong with an object is told as if there were one process."""
    parent, objects_of = os.getpid(), DeltaTree.objects

    def refusing(delta_tree: DeltaTree, positions: set[int]) -> Iterator[tuple[int, bytes]]:
        if os.getpid() != parent:
            refused.write_text(json.dumps(sorted(positions)))
        yield from objects_of(delta_tree, positions)
        if refused.exists() and sorted(positions) == json.loads(refused.read_text()):
            raise InflatedTooLarge

    refused = tmp_path / "refused"
    monkeypatch.setattr(checkout_module, "cores", lambda: 2)
    monkeypatch.setattr(DeltaTree, "objects", refusing)
    lines, objects, _contents = many_files()
    with pytest.raises(InflatedTooLarge):
        tree_of(tmp_path, *lines, objects=objects)


def test_one_process_does_it_all_where_the_machine_takes_no_second(tmp_path: Path) -> None:
    """Whoever has as many processes as he may have still gets his tree."""
    tmp_path.chmod(0o777)
    for above in tmp_path.parents[:3]:
        if above.stat().st_uid == os.geteuid():
            above.chmod(above.stat().st_mode | 0o055)
    lines, objects, contents = many_files()

    def build() -> bool:
        if not os.geteuid():
            os.setgroups([])
            os.setresuid(NOBODY, NOBODY, NOBODY)  # the bound does not hold for root
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        tree_of(tmp_path / "incoming", *lines, objects=objects)
        return Forked(lambda: None).has_started

    assert forked(build) is False
    assert_written(tmp_path / "incoming/tree", contents)
