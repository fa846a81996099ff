"""The levels of isolation, from inside real children, and the order in which a child drops its rights."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from coderepos.exceptions import IsolationUnavailable
from coderepos.git.confinement import first_use, landlock, linux, profiles, seccomp
from coderepos.git.confinement.bpf import AllowList
from coderepos.git.limits import Limits
from coderepos.git.wire import BuildRequest, SearchRequest
from tests.support.surroundings import Surroundings, fetch_request

pytestmark = pytest.mark.usefixtures("no_children_left")


def test_a_child_starts_with_nothing_of_its_parent(surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable, descriptor or working directory of the parent reaches a child, and no ``.pth`` file is run."""
    monkeypatch.setenv("MASTER_ENCRYPTION_KEY", "secret")
    inheritable = os.dup2(1, 200, inheritable=True)

    started = surroundings.try_all("none", "environment", "directory", "site")
    confined = [surroundings.try_all(role) for role in ("fetch", "build", "search")]
    os.close(inheritable)

    assert started["results"] == {"environment": "LC_CTYPE", "directory": "/", "site": "absent"}
    assert [answer["open"] for answer in (started, *confined)] == [[]] * 4


@pytest.mark.parametrize("missing", ["landlock", "landlock_at_boot", "landlock_layers"])
def test_without_landlock_the_level_drops_and_says_so(surroundings: Surroundings, missing: str) -> None:
    """A kernel without Landlock gives level 1, where resource limits and the filter still hold."""
    answer = surroundings.try_all("build", "read_passwd", "execute", "socketpair", "allocate", without=(missing,))

    assert answer["report"]["level"] == 1
    assert answer["report"]["landlock_abi"] == 0
    assert answer["report"].get("landlock_refused") == ("E2BIG" if missing == "landlock_layers" else None)
    assert answer["report"]["allow_list"] == "build"
    assert answer["results"] == {
        "read_passwd": "done",
        "execute": "EPERM",
        "socketpair": "EPERM",
        "allocate": "MemoryError",
    }


def test_without_landlock_fetch_still_writes_no_file(surroundings: Surroundings) -> None:
    """At level 1 it is the file size limit that keeps the fetch child from writing."""
    answer = surroundings.try_all("fetch", "write_outside", without=("landlock", "seccomp"))

    assert answer["report"]["level"] == 1
    assert answer["results"] == {"write_outside": "EFBIG"}


def test_without_seccomp_landlock_holds_alone(surroundings: Surroundings) -> None:
    """Level 2 keeps files and TCP closed; UDP and socket pairs stay possible, as the table says."""
    answer = surroundings.try_all("build", "read_passwd", "connect_other", "datagram", "execute", without=("seccomp",))

    assert answer["report"]["level"] == 2
    assert "allow_list" not in answer["report"]
    assert answer["results"] == {
        "read_passwd": "EACCES",
        "connect_other": "EACCES",
        "datagram": "done",
        "execute": "EACCES",
    }


def test_older_landlock_leaves_signals_to_the_filter(surroundings: Surroundings) -> None:
    """Before ABI 6 it is the seccomp filter that keeps a child from signalling others."""
    answer = surroundings.try_all("build", "signal_parent", "fork", "build", without=("scopes",))

    assert answer["report"]["landlock_abi"] == 5
    assert answer["report"]["scoped"] is False
    assert answer["results"] == {"signal_parent": "EPERM", "fork": "done", "build": "done"}


def test_the_first_landlock_still_confines_files(surroundings: Surroundings) -> None:
    """ABI 1 knows files only, and a repository can be built under it."""
    answer = surroundings.try_all("build", "read_passwd", "write_outside", "build", without=("tcp",))

    assert answer["report"]["tcp"] is False
    assert answer["results"] == {"read_passwd": "EACCES", "write_outside": "EACCES", "build": "done"}


@pytest.mark.parametrize(
    ("without", "reached"), [((), 3), (("seccomp",), 2), (("landlock",), 1), (("landlock", "seccomp"), 1)]
)
def test_below_the_wanted_level_nothing_runs(
    surroundings: Surroundings, without: tuple[str, ...], reached: int
) -> None:
    """A child that can't reach the level of the settings refuses to work and says what it could reach."""
    for min_level in (1, 2, 3):
        answer = surroundings.try_all("fetch", without=without, min_level=min_level)

        if min_level <= reached:
            assert answer["report"]["level"] == reached
        else:
            assert answer["error"] == "isolation_unavailable"
            assert answer["fields"] == {"level": reached, "min_level": min_level}


def test_a_private_authority_can_be_read(surroundings: Surroundings) -> None:
    """The CA bundle of the settings is open to the fetch child, wherever it is."""
    bundle = str(surroundings.outside / "present")

    answer = surroundings.try_all("fetch", "read_other_sandbox", "write_outside", ca_bundle=bundle)

    assert answer["results"] == {"read_other_sandbox": "done", "write_outside": "EPERM"}


def test_dropping_rights_costs_next_to_nothing(surroundings: Surroundings) -> None:
    """The best of several children stays below 5 ms, however busy the machine is; 1 ms was measured on a quiet one."""
    seconds = [surroundings.try_all("build")["seconds"] for _ in range(5)]

    assert min(seconds) < 0.005


def test_the_level_of_this_machine_is_what_a_child_reaches(surroundings: Surroundings) -> None:
    """The level that a node reports is the one that its children have."""
    assert surroundings.try_all("build")["report"]["level"] == profiles.available_level()


def test_no_code_is_readable() -> None:
    """Whatever a child imports is imported before: build and search read nothing but what they write themselves."""
    limits = Limits()
    build = profiles.build_profile(BuildRequest(incoming="/nowhere", limits=limits, min_level=1))
    search = profiles.search_profile(SearchRequest(limits=limits, min_level=1))
    fetch = profiles.fetch_profile(fetch_request(), ports=(443,))

    assert build.rules == landlock.Rules(write=("/nowhere",))
    assert search.rules == landlock.Rules()
    for code in (os.__file__, profiles.__file__):
        assert not any(Path(code).is_relative_to(path) for path in fetch.rules.read)


def test_rules_for_what_does_not_exist_are_left_out(tmp_path: Path) -> None:
    """Paths of other distributions are no error; an unexpected error is."""
    landlock._allow(-1, [str(tmp_path / "missing"), "/etc/hosts/below-a-file"], landlock.READ)

    with pytest.raises(OSError, match="File name too long"):
        landlock._allow(-1, ["/" + "x" * 300], landlock.READ)


def test_limits_never_rise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hard limit of the parent that is lower than ours stays."""
    taken: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (100, 200))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, pair: taken.append(pair))

    profiles._lower_limit(resource.RLIMIT_NOFILE, 150, 300)

    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    profiles._lower_limit(resource.RLIMIT_NOFILE, 150, 300)

    assert taken == [(150, 200), (150, 300)]


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The steps of dropping rights, taken down instead of taken."""
    steps: list[str] = []
    names = {4: "dumpable", 38: "no_new_privs"}
    monkeypatch.setattr(first_use, "load", lambda: steps.append("first use"))
    monkeypatch.setattr(linux, "prctl", lambda option, value: steps.append(f"{names[option]} {int(value)}"))
    monkeypatch.setattr(linux, "drop_capabilities", lambda: steps.append("capabilities"))
    monkeypatch.setattr(profiles, "_let_go_of_standard_error", lambda: steps.append("standard error"))
    monkeypatch.setattr(profiles, "_lower_limit", lambda kind, soft, hard: steps.append("limit"))
    monkeypatch.setattr(os, "umask", lambda mask: steps.append(f"umask {mask:o}"))

    def restrict(rules: landlock.Rules) -> int:
        steps.append("landlock")
        return 7

    def install(allowed: AllowList) -> bool:
        steps.append("seccomp")
        return True

    monkeypatch.setattr(landlock, "restrict", restrict)
    monkeypatch.setattr(seccomp, "install", install)
    return steps


def test_certificates_are_readable_for_tls_alone() -> None:
    """A plain HTTP host is shown none."""
    readable = [profiles.fetch_profile(fetch_request(), ports=(80,), with_tls=tls).rules.read for tls in (True, False)]
    assert ["/etc/ssl/certs" in paths for paths in readable] == [True, False]
    assert set(readable[1]) < set(readable[0])


def test_rights_are_dropped_in_an_order_that_works(order: list[str]) -> None:
    """Imports first, limits before capabilities, ``no_new_privs`` before Landlock, the filter last."""
    report = profiles.confine_fetch(fetch_request(), ports=(443,))

    assert report == {
        "level": 3,
        "landlock_abi": 7,
        "tcp": True,
        "scoped": True,
        "seccomp": True,
        "allow_list": "fetch",
    }
    assert order == [
        "first use",
        "umask 77",
        *["limit"] * 5,
        "capabilities",
        "no_new_privs 1",
        "dumpable 0",
        "standard error",
        "landlock",
        "seccomp",
    ]


def test_a_group_that_reads_needs_another_umask(order: list[str]) -> None:
    """What build makes may be readable for the group, never for others."""
    profiles.confine_build(
        BuildRequest(incoming="/nowhere", limits=Limits(), min_level=1, group_readable=True),
    )

    assert "umask 27" in order


def test_a_refusing_kernel_lowers_the_level(order: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that refuses both leaves level 1, and the report says why."""

    def refuse(what: object) -> int:
        raise OSError(7, "too many layers")

    monkeypatch.setattr(landlock, "restrict", refuse)
    monkeypatch.setattr(seccomp, "install", refuse)

    report = profiles.confine_fetch(fetch_request(), ports=(443,))

    assert report["level"] == 1
    assert (report["landlock_refused"], report["seccomp_refused"]) == ("E2BIG", "E2BIG")
    with pytest.raises(IsolationUnavailable):
        profiles.confine_fetch(fetch_request(min_level=2), ports=(443,))


@pytest.mark.parametrize("content", [None, "passwd: files\n"])
def test_a_machine_that_names_no_services_for_hosts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None
) -> None:
    """Those that glibc takes by itself are loaded, which are libraries of their own in older releases."""
    configuration = tmp_path / "nsswitch.conf"
    if content is not None:
        configuration.write_text(content)
    monkeypatch.setattr(first_use, "_NAME_SERVICES", configuration)

    assert set(first_use._name_services()) == {"dns", "files"}
