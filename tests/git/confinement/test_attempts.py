"""What an attacker would try from inside each of the three children at level 3, as root and as another user.

Whatever is not named for a child is refused with ``EPERM``.
"""

from __future__ import annotations

import os

import pytest

from coderepos.git.confinement import seccomp
from coderepos.git.confinement.bpf import X86_64
from tests.support.programs.attempts import HARMFUL
from tests.support.surroundings import Surroundings
from tests.support.users import USERS

pytestmark = pytest.mark.usefixtures("no_children_left")

YOUNG = dict.fromkeys(
    (
        "compare_with_parent",
        "fork_by_clone3",
        "io_uring",
        "memory_file",
        "open_tree",
        "secret_memory",
        "signal_by_descriptor",
        "statx",
        "user_namespace_by_clone3",
        "bpf",
        "userfaultfd",
        "execute_from_memory",
    ),
    "ENOSYS",
)
"""Refused as by a kernel that does not have them."""

OWN = {"allocate": "MemoryError", "raise_limits": "ValueError"}

CONFINED_FILES = dict.fromkeys(
    (
        "read_passwd",
        "read_beside_package",
        "read_package",
        "read_library",
        "read_standard_library",
        "read_other_sandbox",
        "list_parent",
        "read_own_environment",
        "read_parents_environment",
        "read_parents_memory",
    ),
    "EACCES",
)
"""Whoever may open files at all is kept from these by Landlock."""

FETCH = {
    **OWN,
    **CONFINED_FILES,
    "core_size": "0",
    "connect_allowed": "done",
    "resolve": "done",
    "read_hosts": "done",
    "thread": "done",
    "fork": "EPERM",
    "connect_other": "EACCES",
    # What looking names up takes; see docs/threats.md.
    "datagram": "EPERM",
    "connected_datagram": "done",
    "stat": "done",
    "write_to_standard_error": "EBADF",
}

BUILD = {
    **OWN,
    **CONFINED_FILES,
    "core_size": "0",
    "build": "done",
    "fork": "done",
    "processes": "2048",
    "thread": "RuntimeError",
    "write_outside": "EACCES",
    "write_over": "EACCES",
    "append": "EACCES",
    "remove": "EACCES",
    "rename": "EACCES",
    "steal": "EACCES",
    "symlink": "EACCES",
    "smuggle": "EACCES",
    "make_directory": "EACCES",
    "remove_directory": "EACCES",
    "32_bit": "SIGSYS",
    "chmod_open_device": "EBADF",
    "write_to_standard_error": "EBADF",
}

SEARCH = {
    **OWN,
    "fork": "EPERM",
    "thread": "RuntimeError",
    "read_hosts": "EPERM",
    "write_to_standard_error": "EBADF",
}

X86_ONLY = {"x32", "32_bit"}

UNSAFE = {"mount", "raise_limits", "sibling", "trace_parent"}
"""What would change more than the victims, were it done."""

ROOT_ONLY = {"bpf", "change_root", "chmod_open_device", "open_tree", "packet", "perf", "raw"}


def expected(own: dict[str, str]) -> dict[str, str]:
    """Return the result of every attempt."""
    results = dict.fromkeys(HARMFUL, "EPERM") | YOUNG | own
    return results if seccomp.architecture() is X86_64 else {name: results[name] for name in results.keys() - X86_ONLY}


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(("role", "own"), [("fetch", FETCH), ("build", BUILD), ("search", SEARCH)])
def test_nothing_has_an_effect_but_the_work(
    surroundings: Surroundings, role: str, own: dict[str, str], user: int | None
) -> None:
    """A child can do what its work needs, and of what an attacker would want nothing but what is named here."""
    wanted = expected(own)
    before: object = None

    def remember() -> None:
        nonlocal before
        before = surroundings.facts()

    answer = surroundings.try_all(role, *wanted, user=user, min_level=3, before=remember)

    assert answer["results"] == wanted
    assert answer["report"]["level"] == 3
    assert answer["report"]["allow_list"] == role
    assert surroundings.facts() == before


def test_the_attempts_have_an_effect_where_nothing_holds_them_back(surroundings: Surroundings) -> None:
    """What must fail in a confined child succeeds in one that is not, as far as this machine lets anybody do it."""
    attempts = sorted(HARMFUL.keys() - UNSAFE - (set() if seccomp.architecture() is X86_64 else X86_ONLY))

    results = surroundings.try_all("none", *attempts)["results"]

    refused = {name for name, result in results.items() if result != "done"}
    # Kernels without x32 or AF_ALG; an empty program, and nothing to read.
    expected_refusals = {"x32", "crypto_socket", "execute_from_memory", "read_memory_of_parent"}
    assert refused <= expected_refusals | (ROOT_ONLY if os.geteuid() else set())
