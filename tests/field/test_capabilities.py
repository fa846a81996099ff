"""Servers that lack a capability, each in turn: whatever ``git clone`` takes is cloned, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest
from dulwich.repo import Repo
from dulwich.server import BackendRepo, DictBackend
from dulwich.web import make_wsgi_chain

from coderepos.git.network_policy import NetworkPolicy
from coderepos.models import CodeRepository
from tests.support.git import git, git_run, make_repository
from tests.support.reference_git import listing
from tests.support.servers.hostile import (
    ADVERTISEMENT,
    V2_CAPABILITIES,
    HostileServer,
    capabilities,
    pkt,
    sideband,
    v2_server,
)
from tests.support.servers.http_server import Exchange
from tests.support.servers.lacking import LackingServer
from tests.support.site import Site

pytestmark = pytest.mark.of_any_database

V0 = (
    "multi_ack multi_ack_detailed thin-pack side-band side-band-64k ofs-delta shallow deepen-since deepen-not"
    " deepen-relative no-progress include-tag no-done symref object-format agent allow-tip-sha1-in-want"
    " allow-reachable-sha1-in-want"
)
V2 = "agent ls-refs ls-refs=unborn fetch fetch=shallow fetch=wait-for-done server-option object-format object-info"


def lacking(*names: str) -> Callable[[bytes], bool]:
    """Leave these capabilities out; without a name all of them."""
    left_out = {name.encode() for name in names}
    return lambda name: not left_out or name in left_out


LACKS: dict[str, tuple[int, Callable[[bytes], bool]]] = {
    "v0 as it is": (0, lambda name: False),
    "v1 as it is": (1, lambda name: False),
    "v2 as it is": (2, lambda name: False),
    **{f"v0 without {name}": (0, lacking(name)) for name in V0.split() if name != "multi_ack_detailed"},
    **{f"v2 without {name}": (2, lacking(name)) for name in V2.split()},
    "v0 without any": (0, lacking()),
    "v1 without any": (1, lacking()),
    "v2 without any": (2, lacking()),
    "v0 without both side bands": (0, lacking("side-band", "side-band-64k")),
    "v0 without both acknowledgements": (0, lacking("multi_ack", "multi_ack_detailed")),
    "v0 without symref, side bands and shallow": (0, lacking("symref", "side-band", "side-band-64k", "shallow")),
    "v2 without features": (2, lambda name: b"=" in name),
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with history, branches, both kinds of tags, and commits that only ids reach."""
    repo = make_repository(tmp_path_factory.mktemp("served") / "repo", commits=5, branch="trunk")
    git("tag", "-a", "v1", "-m", "first", "HEAD~2", cwd=repo)
    git("tag", "light", "HEAD~1", cwd=repo)
    git("branch", "another", "HEAD", cwd=repo)
    git("branch", "master", "HEAD~1", cwd=repo)
    git("config", "uploadpack.allowReachableSHA1InWant", "true", cwd=repo)
    git("config", "uploadpack.allowTipSHA1InWant", "true", cwd=repo)
    return repo


def assert_as_git(site: Site, url: str, folder: Path, *, depth: int | None = None) -> dict[str, Any]:
    """Clone with git and with the site: both get the same commit, branch and files, or neither gets anything.

    :returns: the answer to the connect call.
    """
    limit = [] if depth is None else [f"--depth={depth}"]
    reference = git_run("clone", "--quiet", "--single-branch", *limit, url, folder / "reference")
    answer = site.connect(url, depth=depth)
    assert (answer.status_code == 201) == (reference.returncode == 0), (answer.json(), reference.stderr)
    if reference.returncode:
        return dict(answer.json())
    repo_id = answer.json()["repo_id"]
    assert site.work(repo_id) == "succeeded", site.status(repo_id)
    repository = CodeRepository.objects.get(pk=repo_id)
    assert repository.commit_id == git("rev-parse", "HEAD", cwd=folder / "reference")
    assert repository.ref_name == git("symbolic-ref", "HEAD", cwd=folder / "reference")
    assert repository.sandbox_path
    assert listing(Path(repository.sandbox_path)) == listing(folder / "reference")
    data = f"--git-dir={Path(repository.sandbox_path).parent / 'git'}"
    assert git(data, "log", "--format=%H") == git("log", "--format=%H", cwd=folder / "reference")
    git(data, "fsck", "--strict")
    return dict(answer.json())


@pytest.mark.parametrize("lacks", LACKS)
def test_server_that_lacks_a_capability(site: Site, repository: Path, tmp_path: Path, lacks: str) -> None:
    """Optional means optional (https://github.com/go-git/go-git/issues/2011, repoSpanner#104).

    https://github.com/libgit2/libgit2/issues/1346 is the same of ``ofs-delta`` and ``side-band``.
    """
    version, left_out = LACKS[lacks]
    with LackingServer(repository, left_out, version=version) as server:
        site.trust(server)
        connected = assert_as_git(site, server.url, tmp_path)

        knows_depth = {b"shallow", b"fetch=shallow"} & server.told
        if "size_source" in connected:
            assert connected["size_source"] == ("probe" if knows_depth else "full_fetch")
        assert server.refused == []


def test_server_that_git_itself_gives_up(site: Site, repository: Path, tmp_path: Path) -> None:
    """Git cannot negotiate over HTTP in ``multi_ack``; whoever has nothing need not negotiate at all."""
    with LackingServer(repository, lacking("multi_ack_detailed"), version=0) as server:
        site.trust(server)
        assert git_run("clone", "--quiet", server.url, tmp_path / "reference").returncode
        repo_id = site.connected(server.url)

        assert site.work(repo_id) == "succeeded"
    assert CodeRepository.objects.get(pk=repo_id).commit_id == git("rev-parse", "HEAD", cwd=repository)


@pytest.mark.parametrize("version", [0, 1, 2])
def test_depth_where_the_server_knows_none(site: Site, repository: Path, tmp_path: Path, version: int) -> None:
    """The real git is as clear about it: the server does not support shallow clones; without a depth it goes on."""
    with LackingServer(repository, lacking("shallow", "fetch=shallow"), version=version) as server:
        site.trust(server)
        refused = assert_as_git(site, server.url, tmp_path, depth=2)

        assert refused["detail"]["error"] == "remote_protocol_error"
        assert (
            refused["detail"]["message"] == "The Git host cannot clone at a depth; connect the repository without one."
        )
        assert_as_git(site, server.url, tmp_path)


@pytest.mark.parametrize("version", [0, 1, 2])
def test_depth_where_the_server_knows_it(site: Site, repository: Path, tmp_path: Path, version: int) -> None:
    """The control: with ``shallow`` a depth is cloned at as git does."""
    with LackingServer(repository, version=version, has_service_line=version != 2) as server:
        site.trust(server)
        assert assert_as_git(site, server.url, tmp_path, depth=2)["size_source"] == "probe"


def test_size_where_the_server_knows_no_depth(site: Site, tmp_path: Path) -> None:
    """All of it is counted, so the figure is the true one, and the count ends at the limit."""
    repo = make_repository(tmp_path / "repo", commits=2)
    for number in range(2):
        (repo / "noise").write_bytes(os.urandom(400_000))
        git("add", "-A", cwd=repo)
        git("commit", "--quiet", "-m", f"noise {number}", cwd=repo)
    with LackingServer(repo, lacking("shallow", "fetch=shallow")) as server:
        site.trust(server, MAX_REPO_SIZE_MB=2)
        connected = site.connect(server.url).json()
        site.trust(server, MAX_REPO_SIZE_MB=0.5)
        refused = site.connect(server.url, ref="main")

    assert (connected["estimated_size_mb"], connected["size_source"]) == (0.9, "full_fetch")
    assert refused.status_code == 413
    assert refused.json()["detail"]["message"].startswith("Repository size at least 0.")
    assert refused.json()["detail"]["limit_mb"] == 0.5


def test_size_where_a_whole_history_takes_too_long(site: Site) -> None:
    """A probe that counts everything ends in time, and tells what it has counted: the clone has more of it."""
    told = [line for line in V2_CAPABILITIES if not line.startswith(b"fetch")]

    def slowly(exchange: Exchange) -> Iterator[bytes]:
        yield from sideband(b"PACK" + bytes(50_000))
        while exchange.wait(0.05):
            yield pkt(b"\1" + bytes(100))

    def answer(exchange: Exchange) -> None:
        if exchange.is_advertisement:
            exchange.answer(capabilities([*told, b"fetch\n"]), ADVERTISEMENT)
        else:
            v2_server(pack=slowly)(exchange)

    with HostileServer(answer) as server:
        site.trust(server, PROBE_TIMEOUT=3)
        connected = site.connect(server.url)

    assert connected.status_code == 201
    assert (connected.json()["estimated_size_mb"], connected.json()["size_source"]) == (0.1, "full_fetch")


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the standard library's
        """Stay silent."""


class DulwichServer:
    """The server that comes with dulwich."""

    def __init__(self, repository: Path) -> None:
        self._repository = Repo(str(repository))
        served: dict[str, BackendRepo] = {"/owner/repo.git": self._repository}
        application = make_wsgi_chain(DictBackend(served))
        self._server: WSGIServer = make_server("127.0.0.1", 0, application, handler_class=_Silent)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}/owner/repo.git"

    def policy(self) -> NetworkPolicy:
        return NetworkPolicy(private_hosts=(self.host,), insecure_http_hosts=(self.host,))

    def serve(self) -> Iterator[DulwichServer]:
        """Serve until it is closed."""
        thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield self
        self._server.shutdown()
        thread.join()
        self._server.server_close()
        self._repository.close()


@pytest.fixture
def dulwich_server(repository: Path) -> Iterator[DulwichServer]:
    """Serve the repository by dulwich."""
    yield from DulwichServer(repository).serve()


@pytest.mark.parametrize("depth", [None, 2])
def test_server_of_dulwich(site: Site, dulwich_server: DulwichServer, tmp_path: Path, depth: int | None) -> None:
    """It refuses clients that do not name ``thin-pack``, though none is ever sent to whom has nothing."""
    site.trust(dulwich_server)

    assert_as_git(site, dulwich_server.url, tmp_path, depth=depth)
