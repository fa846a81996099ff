"""Hostile servers and repositories against the whole pipeline: real children, a real sandbox, bytes made by hand.

The children's own tests (test_fetch_hostile, test_build, test_pack, test_checkout) go through many more cases each;
here every threat comes once, and what is asked is how the clone ends, what it costs and what it leaves. A server that
says nothing and a worker that is killed: test_clone.
"""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from coderepos.crypto.secret import Secret
from coderepos.git.clone import CloneRequest, clone
from coderepos.git.credentials import Credentials
from coderepos.git.limits import Limits
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.probe import probe
from coderepos.sandbox.root import SandboxRoot
from coderepos.sandbox.sandbox import Sandbox
from tests.support.hostile_answers import TOKEN
from tests.support.hostile_cases import CASES, CONTENT, PATIENT, Case, valid
from tests.support.measuring import Attempt, attempt, forms_of, found_in, note
from tests.support.selection import sampled
from tests.support.servers.hostile import HostileServer, v2_server

pytestmark = pytest.mark.usefixtures("no_children_left")

CPU_SECONDS: Final = 5.0
PEAK_MB: Final = 300

BASIC: Final = base64.b64encode(f"user:{TOKEN}".encode()).decode()
FORMS: Final = (*forms_of(TOKEN), BASIC.encode())


@pytest.fixture(scope="module")
def valid_server() -> Iterator[HostileServer]:
    """A server with nothing wrong."""
    with HostileServer(valid()) as server:
        yield server


@pytest.fixture
def internal() -> Iterator[HostileServer]:
    """A listener that nobody may connect to, though it would serve whoever does."""
    with HostileServer(v2_server()) as server:
        yield server
    assert server.connections == 0
    assert server.requests == []


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    """A sandbox with nothing in it."""
    root = SandboxRoot(tmp_path / "repos")
    root.prepare("tests")
    made = Sandbox(root, "project", "repository")
    yield made
    made.remove()


def asking(server: HostileServer, internal: HostileServer, limits: Limits = PATIENT) -> CloneRequest:
    """Return a request with credentials, under a policy that would even let the internal listener be asked."""
    hosts = (server.host, internal.host)
    return CloneRequest(
        url=server.url,
        policy=NetworkPolicy(private_hosts=hosts, insecure_http_hosts=hosts),
        credentials=Credentials(username=Secret("user"), password=Secret(TOKEN)),
        ref="",
        depth=None,
        limits=limits,
        min_level=1,
        group_readable=False,
    )


def cloned(request: CloneRequest, sandbox: Sandbox, token: str) -> Attempt:
    """Clone into a new folder of the sandbox."""
    incoming = sandbox.create_incoming(token)
    return attempt(lambda: clone(request, incoming=incoming, on_progress=lambda progress: None))


def links_that_leave(tree: Path) -> list[Path]:
    """Return the links whose end is not in the tree."""
    return [
        path
        for at, folders, files in os.walk(tree)
        for path in (Path(at, name) for name in (*folders, *files))
        if path.is_symlink() and not path.resolve().is_relative_to(tree)
    ]


def assert_lawful_end(case: Case, made: Attempt) -> None:
    """It ended for its reason and kept to its bounds."""
    assert case.reason is None or (made.error and made.error.fields) == {"reason": case.reason}
    assert made.cpu_seconds <= CPU_SECONDS
    assert max(made.peak_mb.values()) <= PEAK_MB
    assert case.wall_seconds is None or made.wall_seconds <= case.wall_seconds


@pytest.mark.parametrize("case", sampled(CASES, every=9), ids=[case.name for case in CASES])
def test_a_clone_ends_as_it_must_and_leaves_nothing(
    case: Case,
    sandbox: Sandbox,
    internal: HostileServer,
    valid_server: HostileServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each ends in its own error or succeeds, cheaply, tells nothing of the token, and disturbs no later clone."""
    caplog.set_level("DEBUG")
    with case.server(case.answer(internal.host)) as server:
        made = cloned(asking(server, internal, case.limits), sandbox, "one")
    note(case.name, made)

    assert made.code in (case.codes or [""]), made.events[-2:]
    assert_lawful_end(case, made)
    assert made.peak_mb["build"] >= case.least_mb
    said = f"{made.said()}\n{caplog.text}".encode()
    assert not [form for form in FORMS if form in said]
    assert b"\x1b" not in said
    assert not found_in(tmp_path, FORMS)
    assert os.listdir(tmp_path) == ["repos"]
    assert os.listdir(sandbox.path) == [".incoming-one"]
    if made.error:
        sandbox.discard_incoming("one")
        assert os.listdir(sandbox.path) == []
    else:
        tree = sandbox.path / ".incoming-one/tree"
        assert links_that_leave(tree) == []
        assert made.report.build.substitutions == case.substitutions
        for name, content in case.holds.items():
            assert stat.S_ISREG((tree / name).lstat().st_mode)
            assert (tree / name).read_bytes() == content
        assert made.report.head_branch in {"", "refs/heads/main"}

    after = cloned(asking(valid_server, internal), sandbox, "two")
    assert after.error is None
    sandbox.finish_incoming("two")
    sandbox.activate("two")
    assert (sandbox.repository_path / "link").read_bytes() == CONTENT.content


PROBED: Final = [case for case in CASES if case.is_probed]


@pytest.mark.parametrize("case", PROBED, ids=[case.name for case in PROBED])
def test_a_probe_ends_as_it_must(case: Case, internal: HostileServer, caplog: pytest.LogCaptureFixture) -> None:
    """A server that breaks the protocol ends the probe in the same error, as cheaply, and learns as little."""
    caplog.set_level("DEBUG")
    with case.server(case.answer(internal.host)) as server:
        request = asking(server, internal, case.limits)
        made = attempt(lambda: probe(request, seconds=request.limits.clone_seconds))
    note(f"probe: {case.name}", made)

    assert made.code in (case.codes or [""]), made.events[-2:]
    assert_lawful_end(case, made)
    said = f"{made.said()}\n{caplog.text}".encode()
    assert not [form for form in FORMS if form in said]


def test_the_search_for_the_token_would_find_it(tmp_path: Path) -> None:
    """The control of the above: every form of it is found, in files, names, links and the values of frames."""
    for number, form in enumerate(FORMS):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "file").write_bytes(b"x" + form + b"x")
        (folder / "link").symlink_to(form.decode())
        assert len(found_in(folder, FORMS)) == 2
    for before in ("", "x", "xy", "user:"):
        header = base64.b64encode(f"{before}{TOKEN}\n".encode())
        assert any(form in header for form in FORMS)

    def careless() -> None:
        password = TOKEN
        raise_ours(password)

    assert TOKEN in attempt(careless).said()


def raise_ours(value: object) -> None:
    """Raise an error of ours from a frame that holds a value."""
    from coderepos.exceptions import RemoteNotFound

    raise RemoteNotFound


def test_the_environment_of_the_worker_changes_nothing(
    sandbox: Sandbox,
    internal: HostileServer,
    valid_server: HostileServer,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever a home folder, Git's variables, proxies, netrc and Python's own variables say, it is a plain clone."""
    home = tmp_path_factory.mktemp("home")
    marker, proxy = home / "marker", f"http://{internal.host}"
    (home / ".gitconfig").write_text(
        f'[url "{proxy}/"]\n\tinsteadOf = http://127.0.0.1\n\tinsteadOf = {valid_server.url}\n'
        f"[http]\n\tproxy = {proxy}\n\textraHeader = X-Evil: 1\n\tsslVerify = false\n"
        f'[filter "lfs"]\n\tsmudge = touch {marker}\n\tprocess = touch {marker}\n\trequired = true\n'
        f"[core]\n\thooksPath = {home}\n\tfsmonitor = touch {marker}\n\tsshCommand = touch {marker}\n"
        f"[credential]\n\thelper = !touch {marker}\n[this is no configuration\n"
    )
    (home / "post-checkout").write_text(f"#!/bin/sh\ntouch {marker}\n")
    (home / "post-checkout").chmod(0o755)
    (home / ".netrc").write_text("machine 127.0.0.1 login netrc password netrc\ndefault login netrc password netrc\n")
    (home / ".netrc").chmod(0o600)
    (home / ".git-credentials").write_text(f"http://stored:stored@{valid_server.host}\n")
    (home / "sitecustomize.py").write_text(f"open({str(marker)!r}, 'w')\n")
    (home / "coderepos.py").write_text(f"open({str(marker)!r}, 'w')\n")
    hostile = {
        **dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), proxy),
        **dict.fromkeys(("GIT_TRACE", "GIT_TRACE_CURL", "GIT_TRACE_PACKET", "GIT_TRACE2_EVENT"), str(marker)),
        **dict.fromkeys(("GIT_SSH_COMMAND", "GIT_ASKPASS", "SSH_ASKPASS", "GIT_EXTERNAL_DIFF"), f"touch {marker}"),
        **dict.fromkeys(("GIT_DIR", "GIT_WORK_TREE", "GIT_OBJECT_DIRECTORY", "GIT_INDEX_FILE"), str(home / "moved")),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "http.proxy",
        "GIT_CONFIG_VALUE_0": proxy,
        "GIT_CONFIG_GLOBAL": str(home / ".gitconfig"),
        "GIT_SSL_NO_VERIFY": "1",
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "NETRC": str(home / ".netrc"),
        "PYTHONPATH": str(home),
        "PYTHONSTARTUP": str(home / "sitecustomize.py"),
        "PYTHONINSPECT": "1",
        "SSLKEYLOGFILE": str(marker),
        "TMPDIR": str(home / "missing"),
    }
    for name, value in hostile.items():
        monkeypatch.setenv(name, value)
    asked = len(valid_server.requests)

    made = cloned(asking(valid_server, internal), sandbox, "one")
    probed = attempt(lambda: probe(asking(valid_server, internal), seconds=30))
    note("hostile environment of the worker", made)

    assert made.error is None
    assert probed.error is None
    requests = valid_server.requests[asked:]
    assert {request.headers.get("authorization") for request in requests} == {f"Basic {BASIC}"}
    assert not any("x-evil" in request.headers for request in requests)
    assert not marker.exists()
    assert not (home / "moved").exists()
