"""Decides which ref names are accepted: those that Git accepts, if they are short enough for a path."""

from __future__ import annotations

from typing import Final

from dulwich.refs import Ref, check_ref_format

from coderepos.git.text import ref_bytes

REF_NAME_BYTES: Final = 4_000
"""Longest ref name: a path on Linux has at most 4,096 bytes."""


def is_ref_name(text: str, *, below: str = "refs/") -> bool:
    """Return whether ``text`` is a full ref name by git-check-ref-format(1), and not too long for a path.

    :param text: the name as in messages between the processes, see :func:`~coderepos.git.text.ref_bytes`.
    :param below: the prefix that it must have; Git itself accepts names outside of ``refs/`` too.
    """
    try:
        name = ref_bytes(text)
    except UnicodeEncodeError:
        return False
    return text.startswith(below) and len(name) <= REF_NAME_BYTES and check_ref_format(Ref(name))
