"""Names, estimates and the working tree on disk; the real git is the reference."""

from __future__ import annotations

import itertools
import json
import os
import stat
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from dulwich.index import validate_path_element_hfs, validate_path_element_ntfs

from coderepos.exceptions import (
    GitError,
    PathTooLong,
    RepositoryTooLarge,
    TooManyEntries,
    TreeTooDeep,
    UnsafeRepository,
)
from coderepos.git.limits import Limits
from coderepos.git.pack.pack_file import Pack
from coderepos.git.wire import BuildReport, dump_line, load_line
from coderepos.git.worktree import checkout as checkout_module
from coderepos.git.worktree import symlinks as links_module
from coderepos.git.worktree.entry_names import check_name, is_writable
from coderepos.git.worktree.tree_entries import Entry
from coderepos.git.worktree.tree_totals import Trees, compute_totals
from tests.support import packs
from tests.support.build_child import LIMITS, built_of, tree_of
from tests.support.packs import FILE, FOLDER, GITLINK, LINK, PROGRAM, Line, Object, blob
from tests.support.working_trees import link, listing

CONTENT = blob()
INNER = packs.tree(Line(FILE, b"inner", CONTENT.id))


def line(mode: bytes, name: bytes) -> Line:
    """Return an entry of any mode that has an object to go with it."""
    return Line(mode, name, {FOLDER: INNER.id, GITLINK: "1" * 40}.get(mode, CONTENT.id))


DOT_GIT = [
    b".git",
    b".GIT",
    b".gIt",
    b"git~1",
    b"GIT~1",
    b".git ",
    b".git.",
    b".git . .",
    b".git::$INDEX_ALLOCATION",
    b".git:stream",
    b"git~1:stream",
    b"a\\.git",
    b".git\\config",
    b"a\\git~1 \\b",
    b".g\xe2\x80\x8cit",
    b"\xef\xbb\xbf.GiT",
    b".git\xe2\x81\xaf",
    b".git\xff",
]
NOT_A_NAME = [b"", b".", b"..", b"../evil", b"/etc", b"a/b", b"l/foo"]
ACCEPTED = [
    b"a\\b",
    b"..\\evil",
    b"C:evil",
    b"con",
    b"nul.txt",
    b"-rf",
    b"git~2",
    b"GIT~2",
    b".gitignore",
    b".github",
    b".git-blame",
    b"git",
    b"x.git",
    b"...",
    b"\xff\xfe",
    b"e\xcc\x81",
    b"\xc3\xa9",
    b" ",
    b"n" * 255,
]
LEFT_OUT = [b"\x1b[31m", b"new\nline", b"tab\t", b"\x7f", b"n" * 256, b"\r"]


@pytest.mark.parametrize("mode", [FILE, FOLDER, LINK, GITLINK])
@pytest.mark.parametrize("name", [*DOT_GIT, *NOT_A_NAME])
def test_a_repository_with_a_name_that_git_refuses_is_refused(tmp_path: Path, mode: bytes, name: bytes) -> None:
    """Whatever has such a name, nothing of the tree is written."""
    with pytest.raises(UnsafeRepository):
        tree_of(tmp_path, line(mode, name), objects=[CONTENT, INNER])
    assert not (tmp_path / "tree").exists()


@pytest.mark.parametrize("mode", [FILE, FOLDER, LINK, GITLINK])
@pytest.mark.parametrize("name", ACCEPTED)
def test_a_name_that_git_accepts_is_written_exactly(tmp_path: Path, mode: bytes, name: bytes) -> None:
    """Real projects have such names."""
    tree_of(tmp_path, line(mode, name), objects=[CONTENT, INNER])
    assert os.listdir(os.fsencode(tmp_path / "tree")) == [name]


@pytest.mark.parametrize("mode", [FILE, FOLDER, LINK, GITLINK])
@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_name_that_hurts_its_readers_is_left_out_and_reported(tmp_path: Path, mode: bytes, name: bytes) -> None:
    """The rest is written, all that is below a directory counts, and the report is text that can be shown."""
    report = tree_of(tmp_path, line(mode, name), line(FILE, b"other"), objects=[CONTENT, INNER])
    assert os.listdir(tmp_path / "tree") == ["other"]
    assert report.substitutions == {"name": 2 if mode == FOLDER else 1}
    assert BuildReport.from_json(load_line(dump_line(asdict(report)))) == report


def test_twins_that_differ_in_case_or_form_are_both_written(tmp_path: Path) -> None:
    """Case and Unicode normalisation don't matter on Linux."""
    names = [b"README", b"readme", b"e\xcc\x81", b"\xc3\xa9"]
    tree_of(tmp_path, *(line(FILE, name) for name in names), objects=[CONTENT])
    assert sorted(os.listdir(os.fsencode(tmp_path / "tree"))) == sorted(names)


def test_names_of_the_git_folder_are_those_that_dulwich_knows() -> None:
    """Both see the same spellings; what is all dots, spaces and invisible is fine for git."""
    pieces = [b".git", b".GIT", b"git~1", b"Git~1", b"git", b".", b" ", b":", b"\\", b"x", b"~1", b"\xe2\x80\x8c", b"$"]
    for count in (1, 2, 3, 4):
        for chosen in itertools.product(pieces, repeat=count):
            name = b"".join(chosen)
            if not name.replace(b"\xe2\x80\x8c", b"").strip(b". "):
                continue
            try:
                check_name(name)
                accepted = True
            except UnsafeRepository:
                accepted = False
            assert accepted == (validate_path_element_ntfs(name) and validate_path_element_hfs(name)), name


def test_modes_and_bytes_are_exact(tmp_path: Path) -> None:
    """Files are 0400, programs 0500, folders 0500, and the top stays the owner's to rename."""
    zeros = blob(bytes(65_536 * 3))
    old = Line(b"100664", b"group-writable", CONTENT.id)
    lines = [
        line(FILE, b"file"),
        line(PROGRAM, b"program"),
        Line(FILE, b"zeros", zeros.id),
        Line(FILE, b"empty", blob(b"").id),
        Line(b"040000", b"padded", INNER.id),
        line(FOLDER, b"folder"),
        old,
    ]
    report = tree_of(tmp_path, *lines, objects=[CONTENT, INNER, zeros, blob(b"")])
    assert listing(tmp_path / "tree") == {
        "file": "-r--------",
        "program": "-r-x------",
        "zeros": "-r--------",
        "empty": "-r--------",
        "padded": "dr-x------",
        "padded/inner": "-r--------",
        "folder": "dr-x------",
        "folder/inner": "-r--------",
        "group-writable": "-r--------",
    }
    assert (tmp_path / "tree/zeros").read_bytes() == zeros.content
    assert stat.filemode((tmp_path / "tree").stat().st_mode) == "dr-x------"
    assert report.entries == 9
    assert report.substitutions == {}


def test_submodules_are_empty_folders_and_lfs_pointers_stay(tmp_path: Path) -> None:
    """Nothing is fetched for them; both are reported."""
    pointer = blob(b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n")
    report = tree_of(
        tmp_path, line(GITLINK, b"module"), Line(FILE, b"large.bin", pointer.id), objects=[CONTENT, pointer]
    )
    assert list((tmp_path / "tree/module").iterdir()) == []
    assert (tmp_path / "tree/large.bin").read_bytes() == pointer.content
    assert report.substitutions == {"gitlink": 1, "lfs_pointer": 1}
    assert report.substituted_paths == ("gitlink: module", "lfs_pointer: large.bin")


@pytest.mark.parametrize(
    ("targets", "made"),
    [
        pytest.param({b"a": b"file"}, {b"a"}, id="file beside"),
        pytest.param({b"a": b"folder/inner"}, {b"a"}, id="file below"),
        pytest.param({b"a": b"./folder//../file"}, {b"a"}, id="way round"),
        pytest.param({b"a": b"missing/file"}, {b"a"}, id="missing"),
        pytest.param({b"a": b"."}, {b"a"}, id="top"),
        pytest.param({b"a": b"b", b"b": b"c", b"c": b"file"}, {b"a", b"b", b"c"}, id="chain"),
        pytest.param({b"a": b"/etc/passwd"}, set(), id="absolute"),
        pytest.param({b"a": b".."}, set(), id="above"),
        pytest.param({b"a": b"../git/HEAD"}, set(), id="beside the tree"),
        pytest.param({b"a": b"folder/../../x"}, set(), id="out through a folder"),
        pytest.param({b"a": b"b/../..", b"b": b"folder"}, set(b"b".split()), id="out after a link"),
        pytest.param({b"a": b"b/x", b"b": b"/etc"}, set(), id="chain to absolute"),
        pytest.param({b"a": b"b", b"b": b"c", b"c": b"../x"}, set(), id="chain out"),
        pytest.param({b"a": b"missing/../../x"}, set(), id="out through a missing folder"),
        pytest.param({b"a": b"a"}, set(), id="itself"),
        pytest.param({b"a": b"b", b"b": b"a/x"}, set(), id="circle"),
        pytest.param({b"a": b""}, set(), id="empty"),
        pytest.param({b"a": b"fi\0le"}, set(), id="nul"),
        pytest.param({b"a": b"x" * 4_096}, set(), id="long"),
    ],
)
def test_only_links_that_stay_inside_are_made(tmp_path: Path, targets: dict[bytes, bytes], made: set[bytes]) -> None:
    """Any other link becomes a small file that holds its text, and is reported."""
    links = [link(name, target) for name, target in targets.items()]
    report = tree_of(
        tmp_path,
        line(FILE, b"file"),
        line(FOLDER, b"folder"),
        *(one for one, _ in links),
        objects=[CONTENT, INNER, *(target for _, target in links)],
    )
    tree = os.fsencode(tmp_path / "tree")
    for name, target in targets.items():
        path = os.path.join(tree, name)
        if name in made:
            assert os.readlink(path) == target
            assert Path(os.fsdecode(os.path.realpath(path))).is_relative_to(tmp_path / "tree")
        else:
            assert stat.S_ISREG(os.lstat(path).st_mode)
            assert Path(os.fsdecode(path)).read_bytes() == target
    assert report.substitutions.get("symlink", 0) == len(targets) - len(made)


def test_links_in_folders_are_followed_from_their_folder(tmp_path: Path) -> None:
    """A link may climb as far as the top of the tree, no farther."""
    up, out = link(b"up", b"../file"), link(b"out", b"../../file")
    inner = packs.tree(up[0], out[0])
    report = tree_of(
        tmp_path, line(FILE, b"file"), Line(FOLDER, b"folder", inner.id), objects=[CONTENT, inner, up[1], out[1]]
    )
    assert listing(tmp_path / "tree")["folder/up"] == "-> ../file"
    assert report.substituted_paths == ("symlink: folder/out",)


def test_many_chained_links_cost_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past a number of steps, and past the memory for their texts, links become files."""
    monkeypatch.setattr(links_module, "_MAX_STEPS", 50)
    first = link(b"a", b"./" * 40 + b"file")
    second = link(b"b", b"./" * 41 + b"file")
    report = tree_of(tmp_path, line(FILE, b"file"), first[0], second[0], objects=[CONTENT, first[1], second[1]])
    assert report.substitutions == {"symlink": 1}
    monkeypatch.setattr(checkout_module, "_MAX_LINKS_BYTES", 100)
    (tmp_path / "again").mkdir()
    report = tree_of(
        tmp_path / "again", line(FILE, b"file"), first[0], second[0], objects=[CONTENT, first[1], second[1]]
    )
    assert report.substitutions == {"symlink": 1}


def test_few_descriptors_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More folders than may be open at once are opened again when they are needed."""
    monkeypatch.setattr(checkout_module, "_MAX_OPEN_DIRECTORIES", 3)
    inner = packs.tree(line(FILE, b"a"), line(FILE, b"b"))
    middle = packs.tree(*(Line(FOLDER, b"%d" % number, inner.id) for number in range(9)))
    tree_of(
        tmp_path,
        *(Line(FOLDER, b"%d" % number, middle.id) for number in range(9)),
        objects=[CONTENT, inner, middle],
    )
    assert len(listing(tmp_path / "tree")) == 9 + 9 * 9 * 3
    assert (tmp_path / "tree/8/8/b").read_bytes() == CONTENT.content


def test_the_report_names_a_hundred_paths(tmp_path: Path) -> None:
    """All are counted, the first hundred named."""
    report = tree_of(tmp_path, *(line(GITLINK, b"%d" % number) for number in range(150)), objects=[])
    assert report.substitutions == {"gitlink": 150}
    assert len(report.substituted_paths) == 100


def nested(depth: int, width: int, bottom: Object, mode: bytes = FILE) -> list[Object]:
    """Return trees in each other, ``width`` times the same one at each level, the outermost last."""
    made = [bottom]
    for level in range(depth):
        kind, inner = mode if not level else FOLDER, made[-1].id
        made.append(packs.tree(*(Line(kind, b"%d" % number, inner) for number in range(width))))
    return made


def shortcuts(depth: int) -> list[Object]:
    """Return trees in each other, and around them one that holds each of them as well."""
    made = nested(depth, 1, CONTENT)
    return [*made, packs.tree(*(Line(FOLDER, b"%d" % number, one.id) for number, one in enumerate(made[1:])))]


def checked_out(folder: Path, objects: list[Object], limits: Limits = LIMITS) -> BuildReport:
    """Build a commit of the last of these objects, a tree."""
    head = packs.commit(objects[-1])
    return built_of(folder, [*objects, head], head, limits)


@pytest.mark.parametrize(
    ("objects", "limits", "error"),
    [
        pytest.param(nested(10, 10, CONTENT), LIMITS, TooManyEntries, id="10^10 files of 10 trees"),
        pytest.param(nested(1, 2_000, blob(bytes(10**6))), LIMITS, RepositoryTooLarge, id="2000 times 1 MB"),
        pytest.param(nested(1, 20, blob(b"x" * 5)), Limits(disk_bytes=20 * 4_096), RepositoryTooLarge, id="blocks"),
        pytest.param(nested(1, 200_000, CONTENT), LIMITS, TooManyEntries, id="200,000 entries"),
        pytest.param(nested(1_500, 1, CONTENT), LIMITS, TreeTooDeep, id="1500 folders deep"),
        pytest.param(nested(66, 1, CONTENT), LIMITS, TreeTooDeep, id="65 folders deep"),
        pytest.param(shortcuts(66), LIMITS, TreeTooDeep, id="65 folders deep by the longest way"),
        pytest.param(nested(20, 1, CONTENT), Limits(path_bytes=38), PathTooLong, id="path of 39"),
    ],
)
def test_a_tree_that_passes_a_limit_is_refused_before_it_is_written(
    tmp_path: Path, objects: list[Object], limits: Limits, error: type[GitError]
) -> None:
    """The estimate comes first, with the figure and the limit."""
    with pytest.raises(error) as caught:
        checked_out(tmp_path, objects, limits)
    assert int(str(caught.value.fields["figure"])) > int(str(caught.value.fields["limit"]))
    assert not (tmp_path / "tree").exists()


def test_a_tree_at_its_limits_is_written(tmp_path: Path) -> None:
    """Exactly as many folders, entries and bytes of path as allowed pass, with folders closed in between."""
    report = checked_out(tmp_path, nested(65, 1, CONTENT), Limits(entries=65, path_bytes=129))
    assert report.entries == 65


def test_more_folders_than_may_be_open_are_written(tmp_path: Path) -> None:
    """Folders are opened again when they are needed."""
    files = [blob(b"%d" % number) for number in range(400)]
    folders = [packs.tree(Line(FILE, b"file", one.id), line(LINK, b"link")) for one in files]
    root = packs.tree(*(Line(FOLDER, b"%d" % number, one.id) for number, one in enumerate(folders)))
    report = checked_out(tmp_path, [CONTENT, *files, *folders, root])
    assert report.entries == 1_200
    assert (tmp_path / "tree/399/file").read_text() == "399"
    found = listing(tmp_path / "tree")
    assert {found[f"{number}"] for number in range(400)} == {"dr-x------"}


@pytest.mark.parametrize(
    ("root", "reason"),
    [
        pytest.param(Object("tree", b"100644 a\0" + b"1" * 19), "malformed tree", id="id cut off"),
        pytest.param(Object("tree", b"100644 a"), "malformed tree", id="no nul"),
        pytest.param(Object("tree", b" a\0" + b"1" * 20), "malformed tree", id="no mode"),
        pytest.param(Object("tree", b"10064x a\0" + b"1" * 20), "malformed tree", id="mode no number"),
        pytest.param(packs.tree(Line(FILE, b"a", "1" * 40)), "object of a tree entry missing", id="missing blob"),
        pytest.param(packs.tree(Line(FOLDER, b"a", "1" * 40)), "object of a tree entry missing", id="missing tree"),
        pytest.param(packs.tree(Line(FOLDER, b"a", CONTENT.id)), "type of a tree entry", id="blob as tree"),
        pytest.param(packs.tree(Line(FILE, b"a", INNER.id)), "type of a tree entry", id="tree as blob"),
        pytest.param(packs.tree(Line(LINK, b"a", INNER.id)), "type of a tree entry", id="tree as link"),
    ],
)
def test_a_malformed_tree_is_refused(tmp_path: Path, root: Object, reason: str) -> None:
    """Modes that disagree with the object's type are malformed too."""
    with pytest.raises(UnsafeRepository) as caught:
        checked_out(tmp_path, [CONTENT, INNER, root])
    assert caught.value.fields == {"reason": reason}


def test_a_tree_inside_itself_is_refused() -> None:
    """Only a collision of ids could make one; it would have no size."""
    trees = Trees(0)
    trees.entries[0] = [Entry(0o40000, b"a", 0)]
    with pytest.raises(UnsafeRepository):
        compute_totals(trees, Pack(-1), LIMITS, 0)


def test_many_folders_cost_no_square() -> None:
    """Sizing up takes as long as there are entries, not as long as their square."""
    pack, trees, folders = Pack(-1), Trees(0), range(1, 40_001)
    pack.sizes.extend([1] * 40_002)
    trees.entries[0] = [Entry(0o40000, b"%d" % folder, folder) for folder in folders]
    trees.entries.update({folder: [Entry(0o100644, b"file", 40_001)] for folder in folders})
    started = time.process_time()
    compute_totals(trees, pack, Limits(disk_bytes=10**9), 0)
    assert time.process_time() - started < 2
    assert (trees.total.entries, trees.total.depth) == (80_000, 1)


def test_nothing_is_written_over(tmp_path: Path) -> None:
    """What is in the way, a link to elsewhere as well, is never followed."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "incoming").mkdir()
    (tmp_path / "incoming/tree").symlink_to(elsewhere)
    with pytest.raises(FileExistsError):
        tree_of(tmp_path / "incoming", line(FILE, b"file"), objects=[CONTENT])
    assert list(elsewhere.iterdir()) == []


def test_every_byte_of_a_name_is_judged() -> None:
    """Control bytes are exactly 0 to 31 and 127."""
    assert [byte for byte in range(256) if not is_writable(bytes([byte]))] == [*range(32), 127]


def test_the_report_is_json(tmp_path: Path) -> None:
    """Names that are no text are escaped in it."""
    module = line(GITLINK, b"\xff\xe2\x80\xae" + b"\xf0\x9f\x92\xa9" + b"\\")
    report = tree_of(tmp_path, module, objects=[])
    assert json.loads(dump_line(asdict(report)))["substituted_paths"] == ["gitlink: \\xff\\u202e\U0001f4a9\\"]
