"""Each line of the table of isolation levels, tried from inside real children, as root and as another user."""

from __future__ import annotations

import os
import resource
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from coderepos.exceptions import IsolationUnavailable
from coderepos.git.confinement import landlock, profiles, seccomp
from coderepos.git.limits import Limits
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.process.supervisor import Child
from coderepos.git.wire import BuildRequest, FetchRequest, dump_line
from tests.support.users import USERS

pytestmark = pytest.mark.usefixtures("no_children_left")


class Surroundings:
    """What a confined child could reach if nothing held it back: sockets, files, folders."""

    def __init__(self, folder: Path, running: ExitStack) -> None:
        self.incoming = folder / "sandbox" / ".incoming-token"
        self.outside = folder / "outside"
        for made in (self.incoming, self.outside):
            made.mkdir(parents=True)
        (self.outside / "present").write_text("here")
        for path in (folder, *folder.parents):
            if path.stat().st_uid == os.geteuid():
                path.chmod(path.stat().st_mode | 0o055)
        self.outside.chmod(0o777)
        (self.outside / "present").chmod(0o666)
        self.listeners = [running.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        self.unix_path = str(folder / "socket")
        self.abstract_name = f"coderepos-test-{os.getpid()}-{id(self)}"
        for address in (self.unix_path, "\0" + self.abstract_name):
            listener = running.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(address)
            listener.listen()
        Path(self.unix_path).chmod(0o666)

    def try_all(
        self,
        role: str,
        *attempts: str,
        user: int | None = None,
        without: tuple[str, ...] = (),
        min_level: int = 1,
        ca_bundle: str | None = None,
    ) -> dict[str, Any]:
        """Return what a child in ``role`` says about its attempts."""
        if user is not None:
            os.chown(self.incoming, user, user)
        allowed_port, other_port = (listener.getsockname()[1] for listener in self.listeners)
        if role == "fetch":
            request: FetchRequest | BuildRequest = FetchRequest(
                url="https://git.example/r.git",
                username=None,
                password=None,
                ref="",
                depth=None,
                policy=NetworkPolicy(ca_bundle=ca_bundle),
                limits=Limits(),
                min_level=min_level,
                count_only=False,
            )
        else:
            request = BuildRequest(incoming=str(self.incoming), limits=Limits(), min_level=min_level)
        given = {
            "role": role,
            "user": user,
            "without": without,
            "request": asdict(request),
            "ports": [allowed_port],
            "allowed_port": allowed_port,
            "other_port": other_port,
            "unix_path": self.unix_path,
            "abstract_name": self.abstract_name,
            "outside": str(self.outside),
            "other_file": str(self.outside / "present"),
            "attempts": attempts,
        }
        return ask("tests.support.programs.confined", given)


def ask(module: str, given: dict[str, Any]) -> dict[str, Any]:
    """Run a child through the real launcher and return its one event."""
    with open(os.devnull, "wb") as nowhere, Child("test", module, nowhere.fileno()) as child:
        child.send(dump_line(given), last=True)
        while not child.finished:
            select.select([child.events_fd], [], [], 10)
            if answer := child.hear():
                return answer[0]
    pytest.fail("the child said nothing")


@pytest.fixture
def surroundings(tmp_path: Path) -> Iterator[Surroundings]:
    """Sockets that listen and files that everybody may read."""
    with ExitStack() as running:
        yield Surroundings(tmp_path, running)


OF_BUILD = {
    "connect_allowed": "EPERM",
    "connect_other": "EPERM",
    "bind": "EPERM",
    "datagram": "EPERM",
    "unix": "EPERM",
    "abstract_unix": "EPERM",
    "socketpair": "EPERM",
    "read_hosts": "EACCES",
    "execute": "EPERM",
    "build": "done",
}

OF_FETCH = {
    "connect_allowed": "done",
    "connect_other": "EACCES",
    "bind": "EACCES",
    "datagram": "done",
    "unix": "done",
    "abstract_unix": "EPERM",
    "resolve": "done",
    "read_hosts": "done",
    "execute": "EPERM",
}

OF_BOTH = {
    "read_passwd": "EACCES",
    "read_beside_package": "EACCES",
    "read_other_sandbox": "EACCES",
    "read_own_environment": "EACCES",
    "read_parents_environment": "EACCES",
    "read_parents_memory": "EACCES",
    "write_outside": "EACCES",
    "remove_outside": "EACCES",
    "chmod_then_write_outside": "EACCES",
    "execute_from_memory": "EPERM",
    "fork": "done",
    "signal_parent": "EPERM",
    "trace_parent": "EPERM",
    "limit_parent": "EPERM",
    "new_session": "EPERM",
    "mount": "EPERM",
    "io_uring": "EPERM",
    "allocate": "MemoryError",
    "raise_limits": "ValueError",
    "core_size": "0",
    "umask": "0o77",
}

X86_ONLY = {"x32": "EPERM", "32_bit": "SIGSYS"} if seccomp.architecture() is seccomp.X86_64 else {}


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(("role", "own"), [("build", OF_BUILD), ("fetch", OF_FETCH)])
def test_every_statement_of_the_table_holds(
    surroundings: Surroundings, role: str, own: dict[str, str], user: int | None
) -> None:
    """At level 3 a child can do what its work needs, and nothing of what an attacker would want."""
    expected = own | OF_BOTH | X86_ONLY

    answer = surroundings.try_all(role, *expected, user=user, min_level=3)

    if role == "fetch" and not answer["report"]["scoped"]:
        expected |= {"abstract_unix": "done"}  # Landlock knows no scopes before ABI 6
    assert answer["report"]["level"] == 3
    assert answer["results"] == expected


@pytest.mark.parametrize("user", USERS)
def test_the_attempts_succeed_where_nothing_holds_them_back(surroundings: Surroundings, user: int | None) -> None:
    """The attempts that must fail in a confined child can all succeed in one that is not."""
    harmless = (OF_BUILD | OF_BOTH).keys() - {"raise_limits", "mount", "execute_from_memory", "trace_parent"}
    needs_the_same_user = {"read_parents_environment", "read_parents_memory", "signal_parent", "limit_parent"}
    attempts = sorted(harmless - (needs_the_same_user | {"read_own_environment"} if user is not None else set()))

    answer = surroundings.try_all("none", *attempts, user=user)

    refused = {name for name, result in answer["results"].items() if result not in ("done", "0")}
    assert refused <= {"umask", "io_uring", "core_size"}


def test_late_imports_still_work(surroundings: Surroundings) -> None:
    """Modules of the standard library and of the libraries can be imported after the rights are given up."""
    for role in ("build", "fetch"):
        assert surroundings.try_all(role, "late_imports")["results"] == {"late_imports": "done"}


def test_a_child_starts_with_nothing_of_its_parent(surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable, descriptor or working directory of the parent reaches a child, and no ``.pth`` file is run."""
    monkeypatch.setenv("MASTER_ENCRYPTION_KEY", "secret")
    inheritable = os.dup2(1, 200, inheritable=True)

    answer = surroundings.try_all("build", "environment", "folder", "site")
    os.close(inheritable)

    assert answer["results"] == {"environment": "LC_CTYPE", "folder": "/", "site": "absent"}
    assert answer["open"] == []


@pytest.mark.parametrize("missing", ["landlock", "landlock_at_boot", "landlock_layers"])
def test_without_landlock_the_level_drops_and_says_so(surroundings: Surroundings, missing: str) -> None:
    """A kernel without Landlock gives level 1, where resource limits and the filter still hold."""
    answer = surroundings.try_all("build", "read_passwd", "execute", "socketpair", "allocate", without=(missing,))

    assert answer["report"]["level"] == 1
    assert answer["report"]["landlock_abi"] == 0
    assert answer["report"].get("landlock_refused") == ("E2BIG" if missing == "landlock_layers" else None)
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

    assert answer["results"] == {"read_other_sandbox": "done", "write_outside": "EACCES"}


def test_giving_up_rights_costs_next_to_nothing(surroundings: Surroundings) -> None:
    """The best of several children stays below 5 ms, however busy the machine is; 1 ms was measured on a quiet one."""
    seconds = [surroundings.try_all("build")["seconds"] for _ in range(5)]

    assert min(seconds) < 0.005


def test_the_level_of_this_machine_is_what_a_child_reaches(surroundings: Surroundings) -> None:
    """The level that a node reports is the one that its children have."""
    assert surroundings.try_all("build")["report"]["level"] == profiles.available_level()


def test_an_orphan_ends_before_it_works(tmp_path: Path) -> None:
    """A child whose parent is gone before it could bind itself to it ends at once."""
    child = os.fork()
    if not child:
        profiles.die_with(os.getppid() + 1)
        os._exit(0)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_the_source_checkout_is_not_readable_as_a_whole() -> None:
    """Of a folder that only holds the package, such as a checkout with its secrets, the package alone is open."""
    root = str(Path(profiles.__file__).parents[3])
    plan = profiles.build_plan(BuildRequest(incoming="/nowhere", limits=Limits(), min_level=1))

    assert root not in plan.rules.read
    assert f"{root}/coderepos" in plan.rules.read
    assert plan.rules.write == ("/nowhere",)


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
    """The steps of giving up rights, taken down instead of taken."""
    steps: list[str] = []
    names = {1: "pdeathsig", 4: "dumpable", 38: "no_new_privs"}
    monkeypatch.setattr(profiles, "_prctl", lambda option, value: steps.append(f"{names[option]} {int(value)}"))
    monkeypatch.setattr(profiles, "_drop_capabilities", lambda: steps.append("capabilities"))
    monkeypatch.setattr(profiles, "_lower_limit", lambda kind, soft, hard: steps.append("limit"))
    monkeypatch.setattr(profiles, "_offer_to_the_oom_killer", lambda: steps.append("oom"))
    monkeypatch.setattr(os, "umask", lambda mask: steps.append(f"umask {mask:o}"))

    def restrict(rules: landlock.Rules) -> int:
        steps.append("landlock")
        return 7

    def install(calls: frozenset[str]) -> bool:
        steps.append("seccomp")
        return True

    monkeypatch.setattr(landlock, "restrict", restrict)
    monkeypatch.setattr(seccomp, "install", install)
    return steps


def fetch_request(min_level: int = 1) -> FetchRequest:
    """Return a request for the fetch child."""
    return FetchRequest(
        url="https://git.example/r.git",
        username=None,
        password=None,
        ref="",
        depth=None,
        policy=NetworkPolicy(),
        limits=Limits(),
        min_level=min_level,
        count_only=False,
    )


def test_certificates_are_readable_for_tls_alone() -> None:
    """A plain HTTP host is shown none, and costs no import of what would find them."""
    readable = [profiles.fetch_plan(fetch_request(), ports=(80,), with_tls=tls).rules.read for tls in (True, False)]
    assert ["/etc/ssl/certs" in paths for paths in readable] == [True, False]
    assert set(readable[1]) < set(readable[0])


def test_rights_are_given_up_in_an_order_that_works(order: list[str]) -> None:
    """Limits before capabilities, ``no_new_privs`` before Landlock, the filter last."""
    report = profiles.confine_fetch(fetch_request(), ports=(443,))

    assert report == {"level": 3, "landlock_abi": 7, "tcp": True, "scoped": True, "seccomp": True}
    assert order == [
        "oom",
        "umask 77",
        *["limit"] * 5,
        "capabilities",
        "no_new_privs 1",
        "dumpable 0",
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


def test_a_child_binds_itself_to_its_living_parent(order: list[str]) -> None:
    """The kernel is asked for SIGKILL, and a child whose parent lives goes on."""
    profiles.die_with(os.getppid())

    assert order == ["pdeathsig 9"]


def test_failing_calls_are_errors() -> None:
    """A refused prctl is never taken for done."""
    with pytest.raises(OSError, match="prctl"):
        profiles._prctl(-1, 0)


def test_no_proc_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The offer to the kernel's memory killer is made where it can be."""
    written: list[str] = []

    def refuse(path: str, *rest: object, **more: object) -> None:
        written.append(path)
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", refuse)
    profiles._offer_to_the_oom_killer()
    monkeypatch.undo()

    assert written == ["/proc/self/oom_score_adj"]


def test_capabilities_that_can_not_be_dropped_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child never goes on with rights that it was to lose."""
    asked: list[tuple[bytes, bytes]] = []

    class Refusing:
        def capset(self, header: bytes, data: bytes) -> int:
            asked.append((header, data))
            return -1

    monkeypatch.setattr(profiles, "_libc", Refusing())

    with pytest.raises(OSError, match="capset"):
        profiles._drop_capabilities()
    assert asked[0][1] == bytes(24)
