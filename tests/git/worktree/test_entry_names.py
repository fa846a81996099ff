"""The common names that need no closer look are among those that a closer look accepts."""

from __future__ import annotations

import os

from hypothesis import example, given
from hypothesis import strategies as st

from coderepos.git.worktree.entry_names import check_name, check_name_above_link, is_plain, is_writable
from coderepos.git.worktree.tree_entries import DIRECTORY, FILE, GITLINK, LINK, PROGRAM

PIECES = [*"abgitmodulesGIT01~:;,.=@%+-_ ()[]/\\\x00\x1f\x7f\udcff\u200cé", ".git", "git~1", ".gitmodules", "gi7eba~1"]

names = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)


@given(name=names | st.text(max_size=10) | st.sampled_from("x.").map(lambda character: character * 256))
@example(name="")
@example(name="x" * 255)
@example(name="setup.cfg\n")
def test_plain_names_are_refused_nowhere(name: str) -> None:
    """Whatever the entry is: no check refuses it, and it can be written."""
    if is_plain(name):
        raw = os.fsencode(name)
        for mode in (FILE, PROGRAM, LINK, DIRECTORY, GITLINK):
            check_name(raw, mode)
        check_name_above_link(raw)
        assert is_writable(raw)


def test_names_of_usual_files_are_plain() -> None:
    """What is in most repositories takes the short way."""
    usual = ("README.md", "setup.py", "__init__.py", "test_git.py", "Makefile", "0001_initial.py", "x" * 255)
    assert all(map(is_plain, usual))
    assert not any(map(is_plain, (".gitignore", "", ".", "..", "x" * 256, "a\n", "naïve.txt")))
