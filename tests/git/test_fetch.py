from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from coderepos.exceptions import (
    InternalError,
    RefNotFound,
    RemoteAuthFailed,
    RemoteCertificate,
    RemoteNotFound,
    RepositoryEmpty,
    RepositoryTooLarge,
    TooManyRefs,
)
from coderepos.git.confinement import profiles
from coderepos.git.fetch import fetch, run
from coderepos.git.limits import Limits
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.platforms import KnownHost
from coderepos.git.transport.http_reader import READ_BYTES
from coderepos.git.url import parse_git_url
from coderepos.git.wire import FetchOutcome, request_line
from tests.support.fetch_child import fetch_request, run_child, run_fetch
from tests.support.git import git, git_run, make_repository
from tests.support.servers.git_http_backend import GitServer
from tests.support.servers.hostile import HostileServer
from tests.support.servers.http_server import Exchange


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two repositories: ``repo`` with branches and tags, ``empty`` without a commit."""
    folder = tmp_path_factory.mktemp("repositories")
    repo = make_repository(folder / "repo", commits=5)
    git("tag", "-a", "v1", "-m", "first", "HEAD~2", cwd=repo)
    git("tag", "light", "HEAD~1", cwd=repo)
    git("branch", "other", "HEAD~3", cwd=repo)
    git("branch", "twin", "HEAD~3", cwd=repo)
    git("tag", "twin", "HEAD~1", cwd=repo)
    git("update-ref", "refs/pull/1/head", "HEAD~4", cwd=repo)
    git("init", "--quiet", folder / "empty")
    return folder


@pytest.fixture(params=[True, False], ids=["v2", "v0"])
def server(root: Path, request: pytest.FixtureRequest) -> Iterator[GitServer]:
    """The real server, in both versions of the protocol."""
    with GitServer(root, protocol_v2=request.param) as running:
        yield running


def commit(root: Path, revision: str) -> str:
    return git("rev-parse", revision, cwd=root / "repo")


def objects_of(pack: bytes, folder: Path) -> set[str]:
    """Let git index the pack and return the ids of its objects."""
    path = folder / "x.pack"
    path.write_bytes(pack)
    git("index-pack", "--strict", path)
    with (folder / "x.idx").open("rb") as index:
        shown = subprocess.run(["git", "show-index"], stdin=index, capture_output=True, check=True, text=True)
    return {line.split()[1] for line in shown.stdout.splitlines()}


@pytest.mark.parametrize(
    ("ref", "revision", "ref_name"),
    [
        ("", "main", "refs/heads/main"),
        ("HEAD", "main", "refs/heads/main"),
        ("main", "main", "refs/heads/main"),
        ("other", "other", "refs/heads/other"),
        ("refs/heads/other", "other", "refs/heads/other"),
        ("light", "refs/tags/light", "refs/tags/light"),
        ("v1", "refs/tags/v1", "refs/tags/v1"),
        ("refs/tags/v1", "refs/tags/v1", "refs/tags/v1"),
        ("twin", "refs/heads/twin", "refs/heads/twin"),
        ("refs/tags/twin", "refs/tags/twin", "refs/tags/twin"),
        ("refs/pull/1/head", "refs/pull/1/head", "refs/pull/1/head"),
    ],
)
def test_fetches_one_ref(server: GitServer, root: Path, tmp_path: Path, ref: str, revision: str, ref_name: str) -> None:
    """The pack holds what the ref reaches and nothing else; a branch goes before a tag of the same name."""
    fetched = run_fetch(fetch_request(server, server.url("repo"), ref=ref))

    wanted = commit(root, revision)
    assert (fetched.outcome["wanted_id"], fetched.outcome["ref_name"]) == (wanted, ref_name)
    assert fetched.outcome["head_branch"] == "refs/heads/main"
    assert fetched.outcome["pack_bytes"] == len(fetched.pack)
    reachable = git("rev-list", "--objects", wanted, cwd=root / "repo")
    tag_object = {commit(root, "refs/tags/v1")}
    assert (
        objects_of(fetched.pack, tmp_path) - tag_object
        == {line.split()[0] for line in reachable.splitlines()} - tag_object
    )


def test_tags_come_along(server: GitServer, root: Path, tmp_path: Path) -> None:
    """All tags are told; the pack has the tag object of the annotated one, though only main was asked for."""
    fetched = run_fetch(fetch_request(server, server.url("repo"), ref="main"))

    assert dict(fetched.outcome["tags"]) == {
        f"refs/tags/{name}": commit(root, f"refs/tags/{name}") for name in ("v1", "light", "twin")
    }
    assert commit(root, "refs/tags/v1") in objects_of(fetched.pack, tmp_path)


def test_outcome_passes_the_border(server: GitServer) -> None:
    """The outcome survives JSON and the checks of the other side."""
    fetched = run_fetch(fetch_request(server, server.url("repo"), depth=2))

    outcome = FetchOutcome.from_json(json.loads(json.dumps(fetched.outcome)), limits=Limits())

    assert outcome.pack_bytes == len(fetched.pack)


@pytest.mark.parametrize(
    "odd",
    [
        {"skipped_tags": -1},
        {"skipped_tags": True},
        {"skipped_tags": "1"},
        {"skipped_tags": 10**9},
        {"shallow": ["x"]},
        {"shallow": None},
        {"tags": [["refs/tags/a b", "1" * 40]]},
        {"tags": [["refs/tags/a", "1" * 39]]},
        {"ref_name": "refs/heads/a..b"},
        {"head_branch": "HEAD"},
        {"wanted_id": "A" * 40},
        {"pack_bytes": -1},
    ],
    ids=str,
)
def test_odd_outcome_does_not_pass_the_border(server: GitServer, odd: dict[str, object]) -> None:
    """Each field is checked on the other side."""
    fetched = run_fetch(fetch_request(server, server.url("repo"), depth=2))

    with pytest.raises(ValueError, match=r"tags|shallow|ref name|object id|pack_bytes"):
        FetchOutcome.from_json({**fetched.outcome, **odd}, limits=Limits())


def test_depth(server: GitServer, root: Path) -> None:
    """A depth of two cuts history after the second commit and tells where."""
    fetched = run_fetch(fetch_request(server, server.url("repo"), depth=2))

    assert fetched.outcome["shallow"] == (commit(root, "main~1"),)


def test_commit_by_id(root: Path) -> None:
    """A full commit id is fetched where the server gives it away."""
    with GitServer(root) as server:
        wanted = commit(root, "main~1")
        fetched = run_fetch(fetch_request(server, server.url("repo"), ref=wanted))

    assert (fetched.outcome["wanted_id"], fetched.outcome["ref_name"]) == (wanted, "")


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("nope", "no such branch, tag or commit"),
        ("refs/heads/nope", "no such branch, tag or commit"),
        ("mai", "no such branch, tag or commit"),
        ("v", "no such branch, tag or commit"),
        ("a b", "Git allows no branch or tag of this name"),
        ("\ud800", "Git allows no branch or tag of this name"),
        ("refs/", "Git allows no branch or tag of this name"),
        ("abcdef", "give all 40 digits"),
        ("ABCDEF0", "give all 40 digits"),
    ],
)
def test_unknown_refs(server: GitServer, ref: str, says: str) -> None:
    """A ref that is not there, a part of a name, what can be no name, a short id: each says what to give."""
    with pytest.raises(RefNotFound, match=says):
        run_fetch(fetch_request(server, server.url("repo"), ref=ref))


def test_commit_that_no_ref_names(tmp_path: Path) -> None:
    """v2 gives such a commit away; a server of v0 that does not say so is not asked, as ``git fetch`` does not."""
    repo = make_repository(tmp_path / "repo", commits=3)
    hidden, unknown = git("rev-parse", "main~1", cwd=repo), "a" * 40
    git("init", "--quiet", tmp_path / "other")
    with GitServer(tmp_path) as server:
        assert run_fetch(fetch_request(server, server.url("repo"), ref=hidden.upper())).outcome["wanted_id"] == hidden
        with pytest.raises(RefNotFound, match="no such branch, tag or commit"):
            run_fetch(fetch_request(server, server.url("repo"), ref=unknown))
    with GitServer(tmp_path, protocol_v2=False) as server:
        named = git("rev-parse", "main", cwd=repo)
        assert run_fetch(fetch_request(server, server.url("repo"), ref=named.upper())).outcome["wanted_id"] == named
        for ref in (hidden, unknown):
            with pytest.raises(RefNotFound, match="serves only commits that a branch or tag points to; name a branch"):
                run_fetch(fetch_request(server, server.url("repo"), ref=ref))
            assert git_run(
                "-c", "protocol.version=0", "fetch", server.url("repo"), ref, cwd=tmp_path / "other"
            ).returncode
        git("config", "uploadpack.allowReachableSHA1InWant", "true", cwd=repo)
        assert run_fetch(fetch_request(server, server.url("repo"), ref=hidden)).outcome["wanted_id"] == hidden


@pytest.mark.parametrize("ref", ["", "main"])
def test_empty_repository(server: GitServer, ref: str) -> None:
    """A repository without a commit says so, whatever is asked for."""
    with pytest.raises(RepositoryEmpty):
        run_fetch(fetch_request(server, server.url("empty"), ref=ref))


def test_unborn_head(tmp_path: Path) -> None:
    """Where HEAD names a branch that does not exist, the default branch is what cannot be found."""
    repo = make_repository(tmp_path / "repo", commits=1)
    git("branch", "b/é", cwd=repo)
    git("tag", "v1", cwd=repo)
    git("symbolic-ref", "HEAD", "refs/heads/gone", cwd=repo)

    for protocol_v2 in (True, False):
        with GitServer(tmp_path, protocol_v2=protocol_v2) as server:
            for count_only in (True, False):
                with pytest.raises(RefNotFound) as caught:
                    run_fetch(fetch_request(server, server.url("repo"), count_only=count_only))
                assert caught.value.message == (
                    "The repository's default branch does not exist; name a branch, such as b/é, main."
                )
            for name in ("main", "b/é", "heads/main", "refs/heads/main", "tags/v1"):
                assert run_fetch(fetch_request(server, server.url("repo"), ref=name)).pack


@pytest.mark.parametrize("protocol_v2", [True, False], ids=["v2", "v0"])
def test_no_branches(tmp_path: Path, protocol_v2: bool) -> None:
    """Only tags, only other refs, and nothing at all are told apart, and what the sentence names can be cloned."""
    repo = make_repository(tmp_path / "repo", commits=1)
    git("update-ref", "refs/pull/1/head", "HEAD", cwd=repo)
    git("tag", "v1", cwd=repo)
    git("symbolic-ref", "HEAD", "refs/heads/gone", cwd=repo)
    git("branch", "-D", "main", cwd=repo)

    with GitServer(tmp_path, protocol_v2=protocol_v2) as server:
        request = fetch_request(server, server.url("repo"))
        with pytest.raises(RefNotFound, match=r"has tags but no branch; name a tag, such as v1\.$") as caught:
            run_fetch(request)
        assert caught.value.fields["names"] == ["v1"]
        assert run_fetch(replace(request, ref="v1")).pack
        git("tag", "-d", "v1", cwd=repo)
        with pytest.raises(RefNotFound, match=r"name a ref in full, such as refs/pull/1/head\.$"):
            run_fetch(request)
        for name in ("refs/pull/1/head", "pull/1/head"):
            assert run_fetch(replace(request, ref=name)).outcome["ref_name"] == "refs/pull/1/head"
        git("update-ref", "-d", "refs/pull/1/head", cwd=repo)
        for ref in ("", "main", "a" * 40):
            with pytest.raises(RefNotFound if protocol_v2 and len(ref) == 40 else RepositoryEmpty):
                run_fetch(replace(request, ref=ref))


def test_detached_head(tmp_path: Path) -> None:
    """A detached HEAD is fetched and names no branch."""
    repo = make_repository(tmp_path / "repo", commits=2)
    git("checkout", "--quiet", "--detach", "HEAD~1", cwd=repo)
    git("tag", "here", cwd=repo)

    with GitServer(tmp_path) as server:
        fetched = run_fetch(fetch_request(server, server.url("repo")))

    assert (fetched.outcome["ref_name"], fetched.outcome["head_branch"]) == ("", "")
    assert fetched.outcome["wanted_id"] == git("rev-parse", "HEAD", cwd=repo)


@pytest.mark.parametrize("protocol_v2", [True, False], ids=["v2", "v0"])
@pytest.mark.parametrize("branches", [["main"], ["main", "master"], ["a", "main"], ["master", "zz"]], ids=str)
def test_detached_head_where_a_branch_is(tmp_path: Path, protocol_v2: bool, branches: list[str]) -> None:
    """A detached HEAD is taken for that of a branch with its id, as ``git clone`` takes it."""
    repo = make_repository(tmp_path / "repo", commits=2, branch="first")
    for name in branches:
        git("branch", name, cwd=repo)
    git("checkout", "--quiet", "--detach", "HEAD", cwd=repo)
    git("branch", "-D", "first", cwd=repo)

    with GitServer(tmp_path, protocol_v2=protocol_v2) as server:
        fetched = run_fetch(fetch_request(server, server.url("repo")))
        git("clone", "--quiet", server.url("repo"), tmp_path / "clone")

    assert fetched.outcome["ref_name"] == git("symbolic-ref", "HEAD", cwd=tmp_path / "clone")


def test_sha256_repository(tmp_path: Path) -> None:
    """A repository with SHA-256 ids is refused with a reason."""
    repo = tmp_path / "repo"
    git("init", "--quiet", "--object-format=sha256", repo)
    git("commit", "--quiet", "--allow-empty", "-m", "x", cwd=repo)

    with GitServer(tmp_path) as server:
        run = run_child(fetch_request(server, server.url("repo")))

    assert run.last["code"] == "remote_protocol_error"
    assert run.last["fields"] == {"reason": "SHA-256 object ids are not supported"}


def test_one_connection_and_the_least_requests(root: Path) -> None:
    """A fetch takes one TCP connection and three requests, and asks for one ref, small deltas and no thin pack."""
    with GitServer(root) as server:
        run_fetch(fetch_request(server, server.url("repo"), depth=1))

        assert server.connections == 1
        advertisement, refs, pack = server.requests
    assert advertisement.path == "/repo/info/refs?service=git-upload-pack"
    assert refs.body.count(b"ref-prefix") == 2
    assert b"ref-prefix HEAD" in refs.body
    assert b"ref-prefix refs/tags/" in refs.body
    assert pack.body.count(b"want ") == 1
    assert b"ofs-delta" in pack.body
    assert b"include-tag" in pack.body
    assert b"thin-pack" not in pack.body


def test_headers_give_nothing_away(root: Path) -> None:
    """Requests carry our own agent and, without credentials, no authorization."""
    with GitServer(root) as server:
        run_fetch(fetch_request(server, server.url("repo")))

    for request in server.requests:
        assert request.headers["user-agent"] == "git/coderepos"
        assert request.headers["host"] == server.host
        assert request.headers["accept-encoding"] == "identity"
        assert not {"authorization", "cookie", "referer"} & set(request.headers)


def test_credentials(root: Path) -> None:
    """The right credentials open the repository, on every request; wrong ones and none do not."""
    with GitServer(root, credentials=("user", "s3cret:ü")) as server:
        run_fetch(fetch_request(server, server.url("repo"), username="user", password="s3cret:ü"))
        expected = "Basic " + base64.b64encode("user:s3cret:ü".encode()).decode()
        assert {request.headers["authorization"] for request in server.requests} == {expected}

        for username, password in (("user", "wrong"), (None, None), ("", "")):
            with pytest.raises(RemoteAuthFailed):
                run_fetch(fetch_request(server, server.url("repo"), username=username, password=password))


def test_token_as_user_name(root: Path) -> None:
    """A token as user name without a password, as GitHub takes it."""
    with GitServer(root, credentials=("token", "")) as server:
        assert run_fetch(fetch_request(server, server.url("repo"), username="token", password="")).pack


def test_tls_with_a_private_authority(root: Path) -> None:
    """A host with a certificate of its own is reached with its CA bundle, and not without."""
    with GitServer(root, tls=True) as server:
        assert run_fetch(fetch_request(server, server.url("repo"))).pack
        request = fetch_request(server, server.url("repo"))
        unverified = fetch_request(
            server, server.url("repo"), policy=type(request.policy)(private_hosts=request.policy.private_hosts)
        )
        with pytest.raises(RemoteCertificate, match="GIT_CA_BUNDLE"):
            run_fetch(unverified)


def test_missing_repository(server: GitServer) -> None:
    """A repository that is not there is an answer of its own."""
    with pytest.raises(RemoteNotFound):
        run_fetch(fetch_request(server, server.url("nope")))


def test_probe_counts_and_writes_nothing(server: GitServer) -> None:
    """A probe counts the pack of the newest commit, writes none of it and asks for no tags."""
    counted = run_fetch(fetch_request(server, server.url("repo"), depth=1, count_only=True))

    assert counted.pack == b""
    assert counted.outcome["pack_bytes"] > 100
    assert counted.outcome["tags"] == ()
    assert counted.outcome["stopped_early"] is False
    assert b"refs/tags/" not in b"".join(request.body for request in server.requests)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of 8 MB that does not compress."""
    folder = tmp_path_factory.mktemp("large")
    repo = make_repository(folder / "repo", commits=1)
    (repo / "noise").write_bytes(os.urandom(8_000_000))
    git("add", "-A", cwd=repo)
    git("commit", "--quiet", "-m", "noise", cwd=repo)
    return folder


def test_probe_stops_as_soon_as_it_knows(large: Path) -> None:
    """A probe of a repository that is far too large ends after the limit over 3.5, without an error."""
    with GitServer(large, bytes_per_second=4_000_000) as server:
        counted = run_fetch(
            fetch_request(server, server.url("repo"), depth=1, count_only=True, limits=Limits(wire_bytes=700_000))
        )

    assert counted.outcome["stopped_early"] is True
    assert 200_000 < counted.outcome["pack_bytes"] <= 200_000 + READ_BYTES
    assert server.sent_bytes < 2_500_000


def test_clone_stops_at_the_limit(large: Path) -> None:
    """A pack over the limit ends the fetch, with both figures."""
    with GitServer(large) as server, pytest.raises(RepositoryTooLarge) as caught:
        run_fetch(fetch_request(server, server.url("repo"), limits=Limits(wire_bytes=1_000_000)))

    figure, limit = caught.value.fields["figure"], caught.value.fields["limit"]
    assert isinstance(figure, int)
    # One receive may bring bytes past the limit; they are counted, and not passed on.
    assert limit == 1_000_000 < figure <= 1_000_000 + READ_BYTES


def test_large_pack_arrives_whole(large: Path, tmp_path: Path) -> None:
    """Every byte of a large pack arrives, over TLS too."""
    for tls in (False, True):
        with GitServer(large, tls=tls) as server:
            fetched = run_fetch(fetch_request(server, server.url("repo")))
        assert len(objects_of(fetched.pack, tmp_path)) == 6
        (tmp_path / "x.pack").unlink()
        (tmp_path / "x.idx").unlink()


def test_tags_beyond_the_limit(server: GitServer) -> None:
    """Tags that are too many are left out and counted; what was asked for comes all the same."""
    fetched = run_fetch(fetch_request(server, server.url("repo"), ref="v1", limits=Limits(refs=1)))

    assert len(fetched.outcome["tags"]) == 1
    assert fetched.outcome["skipped_tags"] == 2
    assert fetched.outcome["ref_name"] == "refs/tags/v1"


@pytest.mark.parametrize("count_only", [True, False], ids=["probe", "clone"])
def test_too_many_refs(root: Path, count_only: bool) -> None:
    """A server that lists too many refs unasked is refused alike by probe and clone; v2 is asked for fewer."""
    limits = Limits(listed_refs=4)
    with GitServer(root, protocol_v2=False) as server, pytest.raises(TooManyRefs) as caught:
        run_fetch(fetch_request(server, server.url("repo"), limits=limits, count_only=count_only))
    with GitServer(root) as server:
        fetched = run_fetch(fetch_request(server, server.url("repo"), limits=limits, count_only=count_only))

    assert caught.value.fields == {"figure": 5, "limit": 4}
    assert fetched.outcome["ref_name"] == "refs/heads/main"
    assert fetched.outcome["skipped_tags"] == 0


@pytest.mark.parametrize("bound", [{"listed_refs": 100}, {"preamble_bytes": 10_000}], ids=["refs", "bytes"])
def test_tags_that_make_the_list_too_long(tmp_path: Path, bound: dict[str, int]) -> None:
    """Where the list with all tags is too long, the clone asks for what the probe asked for, without waiting for it."""
    limits = replace(Limits(receive_seconds=5, clone_seconds=10), **bound)
    repo = make_repository(tmp_path / "repo", commits=1)
    lines = [f"create refs/tags/v{number} HEAD\n" for number in range(1_000)]
    subprocess.run(["git", "update-ref", "--stdin"], input="".join(lines), text=True, check=True, cwd=repo)
    with GitServer(tmp_path) as server:
        fetched = run_fetch(fetch_request(server, server.url("repo"), ref="v990", limits=limits))

        assert server.connections == 2
    assert fetched.outcome["ref_name"] == "refs/tags/v990"
    assert len(fetched.outcome["tags"]) < 1_000
    assert fetched.outcome["skipped_tags"] >= 1


def test_reader_that_is_gone(root: Path) -> None:
    """Where nobody reads the pack any more, the fetch ends with an error of its own."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        with GitServer(root) as server:
            request = fetch_request(server, server.url("repo"))
            url = parse_git_url(request.url, request.policy)
            with pytest.raises(InternalError):
                fetch(request, url, writer, lambda event: None)
    finally:
        os.close(writer)


def test_progress(large: Path) -> None:
    """Progress is told a few times a second and ends with the size of the pack."""
    with GitServer(large, bytes_per_second=16_000_000) as server:
        fetched = run_fetch(fetch_request(server, server.url("repo")))

    assert [event["phase"] for event in fetched.events[:2]] == ["connecting", "receiving"]
    assert fetched.events[-1]["received_bytes"] == len(fetched.pack)
    assert len(fetched.events) < 12


def test_platform_is_asked_beside_the_fetch(root: Path) -> None:
    """The size that the platform tells travels in the outcome, and so does the end of the token's life."""

    def api(exchange: Exchange) -> None:
        exchange.answer(
            b'{"size": 77}', "application/json", github_authentication_token_expiration="2031-02-03 04:05:06 UTC"
        )

    with GitServer(root.parent) as server, HostileServer(api) as platform:
        both = (server.host, platform.host)
        request = fetch_request(
            server,
            server.url(f"{root.name}/repo"),
            policy=NetworkPolicy(private_hosts=both, insecure_http_hosts=both),
            wants_platform_size=True,
        )
        fetched = run_fetch(
            request, hosts={server.host: KnownHost(platform="github", api=f"http://{platform.host}/repos")}
        )

    assert [request.path for request in platform.requests] == [f"/repos/{root.name}/repo"]
    assert fetched.outcome["platform_size_bytes"] == 77 * 1_024
    assert fetched.outcome["token_expires_at"] == "2031-02-03T04:05:06Z"


def test_slow_platform_is_not_waited_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An API that never answers costs a bounded wait and nothing else."""
    monkeypatch.setattr("coderepos.git.transport.platform_queries.API_SECONDS", 0.2)

    def api(exchange: Exchange) -> None:
        exchange.wait(20)

    with GitServer(root.parent) as server, HostileServer(api) as platform:
        both = (server.host, platform.host)
        request = fetch_request(
            server,
            server.url(f"{root.name}/repo"),
            policy=NetworkPolicy(private_hosts=both, insecure_http_hosts=both),
            wants_platform_size=True,
        )
        started = time.monotonic()
        fetched = run_fetch(
            request, hosts={server.host: KnownHost(platform="gitea", api=f"http://{platform.host}/repos")}
        )

    assert time.monotonic() - started < 2
    assert fetched.outcome["platform_size_bytes"] is None
    assert fetched.pack


@pytest.mark.parametrize("tls", [False, True])
def test_child_process(root: Path, tls: bool) -> None:
    """The real child confines itself, says what it does in order, and ends well."""
    with GitServer(root, tls=tls) as server:
        run = run_child(fetch_request(server, server.url("repo"), depth=1))

    assert run.stderr == ""
    assert run.status == 0
    kinds = [event["event"] for event in run.events]
    assert kinds[0] == "started"
    assert set(kinds[1:-1]) == {"progress"}
    assert kinds[-1] == "outcome"
    assert run.events[0]["isolation"]["level"] >= 1
    assert run.peak_mb < 100


def test_child_process_tells_errors_without_values(root: Path) -> None:
    """An error of the child has a code and places in the code; the token is nowhere."""
    with GitServer(root, credentials=("user", "other")) as server:
        run = run_child(fetch_request(server, server.url("repo"), username="user", password="tok3n-value"))

    assert run.status == 1
    assert (run.last["event"], run.last["code"], run.last["fields"]) == ("error", "remote_auth_failed", {})
    assert any(place.startswith("http_connection.py:") for place in run.last["trace"])
    assert "tok3n" not in json.dumps(run.events) + run.stderr


@pytest.mark.parametrize("line", [b"", b"{}\n", b"[1]\n", b"nonsense\n"])
def test_broken_request_line(line: bytes) -> None:
    """A request line that is none is an internal error, told as an event."""
    events: list[dict[str, object]] = []

    status = run(line, 1, lambda event: events.append(dict(event)))

    assert status == 1
    assert [event["code"] for event in events] == ["internal_error"]


def test_the_pack_ends_before_the_outcome(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads the pack need not wait for the end of the process to know that it is over."""
    monkeypatch.setattr(profiles, "confine_fetch", lambda _request, **_rest: {"level": 1})
    reader, writer = os.pipe()
    read_before: list[bytes] = []

    def emit(event: Mapping[str, object]) -> None:
        if event["event"] == "outcome":
            # Blocks for ever where the writing end is still open.
            read_before.append(os.read(reader, 4))
            while os.read(reader, 65_536):
                continue

    with GitServer(root) as server:
        status = run(request_line(fetch_request(server, server.url("repo"))), writer, emit)
    os.close(reader)
    assert (status, read_before) == (0, [b"PACK"])


def test_url_is_checked_again_in_the_child() -> None:
    """The child does not trust the URL that it is given."""
    events: list[dict[str, object]] = []
    with HostileServer() as server:
        line = request_line(fetch_request(server, "file:///etc/passwd"))

    assert run(line, 1, lambda event: events.append(dict(event))) == 1
    assert events[0]["code"] == "url_not_allowed"


def test_user_configuration_has_no_effect(root: Path, tmp_path: Path) -> None:
    """Hostile gitconfig, proxies, netrc and Git's variables change nothing and reach nobody (H15-H17)."""
    with GitServer(root, credentials=("user", "right")) as server, HostileServer(lambda exchange: None) as proxy:
        home = tmp_path / "home"
        home.mkdir()
        (home / ".gitconfig").write_text(
            f'[url "http://{proxy.host}/"]\n\tinsteadOf = http://{server.host}/\n'
            f'[http]\n\tproxy = http://{proxy.host}\n\textraHeader = "X-Leak: 1"\n[broken\n'
        )
        (home / ".netrc").write_text("machine 127.0.0.1 login user password right\n")
        (home / ".git-credentials").write_text(f"http://user:right@{server.host}\n")
        environment = {
            "HOME": str(home),
            "http_proxy": f"http://{proxy.host}",
            "https_proxy": f"http://{proxy.host}",
            "all_proxy": f"http://{proxy.host}",
            "HTTP_PROXY": f"http://{proxy.host}",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "http.proxy",
            "GIT_CONFIG_VALUE_0": f"http://{proxy.host}",
            "GIT_CONFIG_GLOBAL": str(home / ".gitconfig"),
            "GIT_TRACE": str(tmp_path / "trace"),
            "GIT_SSH_COMMAND": f"touch {tmp_path}/ran",
            "GIT_ASKPASS": f"touch {tmp_path}/ran",
        }
        refused = run_child(fetch_request(server, server.url("repo")), environment)
        fetched = run_child(fetch_request(server, server.url("repo"), username="user", password="right"), environment)

    assert refused.last["code"] == "remote_auth_failed"
    assert fetched.last["event"] == "outcome"
    assert proxy.connections == 0
    assert not any("x-leak" in request.headers for request in server.requests)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]
