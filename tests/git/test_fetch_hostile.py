"""What a hostile server may say, and how little it costs: every answer ends in an error of ours, soon and in small."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coderepos.exceptions import (
    GitError,
    PreambleTooLarge,
    RefNotFound,
    RemoteAuthFailed,
    RemoteCertificate,
    RemoteError,
    RemoteNotFound,
    RemoteProtocolError,
    RemoteThrottled,
    RemoteTimeout,
    RemoteUnavailable,
    RemoteUnreachable,
    RepositoryEmpty,
    RepositoryTooLarge,
    TooManyRefs,
)
from coderepos.git.limits import Limits
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.process.emitter import error_event
from tests.support.fetch_child import ChildRun, Fetched, fetch_request, run_child, run_fetch
from tests.support.hostile_answers import (
    ECHOES,
    TOKEN,
    at,
    body,
    body_drips,
    chunks_drip,
    continues,
    cut_off,
    cut_off_chunk,
    endless,
    endless_body,
    hang_up,
    header_lines_drip,
    headers_drip,
    million_refs,
    raw,
    redirect,
    stalls,
    v0_million,
)
from tests.support.selection import sampled
from tests.support.servers.certificates import tls_server
from tests.support.servers.hostile import (
    ADVERTISEMENT,
    FLUSH,
    ID,
    RESULT,
    SERVICE_LINE,
    Answer,
    HostileServer,
    advertisement,
    capabilities,
    ls_refs,
    pack_of,
    pkt,
    sideband,
    v2_server,
)
from tests.support.servers.http_server import Exchange

HASTY = Limits(receive_seconds=0.3, clone_seconds=0.6)


def fetch_from(answer: Answer, **changes: Any) -> Fetched:
    with HostileServer(answer) as server:
        return run_fetch(fetch_request(server, server.url, **changes))


def refusal(answer: Answer, **changes: Any) -> GitError:
    """Return the error that a fetch from this server ends in."""
    with pytest.raises(GitError) as caught:
        fetch_from(answer, **changes)
    return caught.value


def test_well_behaved_server_is_fetched_from() -> None:
    """The control of all that follows: without a hostile part the fetch succeeds, with keep-alive pieces too."""
    pack = pack_of((3, b"x"))
    fetched = fetch_from(v2_server(pack=lambda exchange: [pkt(b"\1"), *sideband(pack, size=7), pkt(b"\2progress\n")]))

    assert fetched.pack == pack
    assert fetched.outcome["wanted_id"] == ID


def test_old_server_without_sidebands() -> None:
    """A protocol v0 server that knows no sideband sends its pack as it is."""
    pack = pack_of((3, b"x"))

    def answer(exchange: Exchange) -> None:
        if exchange.is_advertisement:
            exchange.answer(advertisement([("HEAD", ID), ("refs/heads/main", ID)], b"ofs-delta shallow"), ADVERTISEMENT)
        else:
            exchange.answer(pkt(b"NAK\n") + pack, RESULT)

    fetched = fetch_from(answer)

    assert (fetched.pack, fetched.outcome["head_branch"]) == (pack, "refs/heads/main")


STATUS = {
    **dict.fromkeys((401, 403), RemoteAuthFailed),
    **dict.fromkeys((404, 410), RemoteNotFound),
    **dict.fromkeys((301, 302, 303, 304, 307, 308, 201, 204, 206, 400, 405, 407, 418), RemoteProtocolError),
    **dict.fromkeys((408, 425, 500, 502, 504, 599), RemoteUnreachable),
    429: RemoteThrottled,
    503: RemoteUnavailable,
}


@pytest.mark.parametrize("stage", ["advertisement", "refs", "pack"])
@pytest.mark.parametrize("status", STATUS)
def test_status(stage: str, status: int) -> None:
    """Every status other than 200 is an error of its kind at every stage."""
    error = refusal(at(stage, lambda exchange: exchange.answer(b"text", "text/plain", status)))

    assert type(error) is STATUS[status]


@pytest.mark.parametrize("stage", ["advertisement", "refs", "pack"])
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(stage: str, status: int) -> None:
    """A redirect is refused at every stage; neither its target nor the credentials' way there is touched (H9-H11)."""
    with HostileServer(v2_server()) as target:
        for location, reason in {
            f"http://{target.host}/owner/repository.git/info/refs": "redirect to another host",
            "file:///etc/passwd": "redirect",
            "/elsewhere": "redirect",
        }.items():
            error = refusal(at(stage, redirect(status, location)), username="u", password="p")
            assert error.fields == {"reason": reason}

    assert target.connections == 0


def test_redirect_to_the_same_url_with_suffix() -> None:
    """A host that redirects to the URL with .git, as GitLab does, is asked there, over the URL that we write."""

    def answer(exchange: Exchange) -> None:
        if ".git/" in exchange.path:
            v2_server()(exchange)
        else:
            redirect(301, "https://evil.example/")(exchange)

    with HostileServer(answer) as server:
        fetched = run_fetch(fetch_request(server, server.url.removesuffix(".git")))
        paths = [request.path for request in server.requests]

    assert fetched.pack == pack_of()
    assert paths == [
        "/owner/repository/info/refs?service=git-upload-pack",
        "/owner/repository.git/info/refs?service=git-upload-pack",
        "/owner/repository.git/git-upload-pack",
        "/owner/repository.git/git-upload-pack",
    ]


def test_redirects_without_end() -> None:
    """A host that redirects both spellings of the URL is asked twice and refused."""
    with HostileServer(redirect(302, "/again")) as server:
        with pytest.raises(RemoteProtocolError):
            run_fetch(fetch_request(server, server.url.removesuffix(".git")))
        assert len(server.requests) == 2


def test_too_many_lines() -> None:
    """An advertisement of very many short lines ends before its bytes do."""
    error = refusal(body(capabilities([b"version 2\n", *[b"x"] * 3_000])), limits=Limits(refs=1))

    assert error.fields == {"reason": "too many lines"}


@pytest.mark.parametrize(
    "content_type", ["text/html", "text/plain; charset=utf-8", "", "application/x-git-upload-pack", "application/json"]
)
@pytest.mark.parametrize("stage", ["advertisement", "refs", "pack"])
def test_other_content_types_are_refused(stage: str, content_type: str) -> None:
    """Whatever is not smart HTTP is refused, the plain files of a dumb server among it (H28)."""
    with HostileServer(at(stage, lambda exchange: exchange.answer(ls_refs([("HEAD", ID)]), content_type))) as server:
        with pytest.raises(RemoteProtocolError) as caught:
            run_fetch(fetch_request(server, server.url))
        asked = [request.path.removeprefix("/owner/repository.git") for request in server.requests]

    assert caught.value.fields == {"reason": "web page" if content_type == "text/html" else "content type"}
    assert set(asked) <= {"/info/refs?service=git-upload-pack", "/git-upload-pack"}


@pytest.mark.parametrize("encoding", ["br", "zstd", "identity, gzip", "gzip, gzip", "compress", ""])
def test_other_content_codings_are_refused(encoding: str) -> None:
    """A coding that nobody asked for, apart from that which curl takes as well, is refused before any of it is read."""
    bomb = gzip.compress(bytes(10**6))
    error = refusal(lambda exchange: exchange.answer(bomb, ADVERTISEMENT, Content_Encoding=encoding))

    assert error.fields == {"reason": "content encoding"}


MALFORMED = {
    "nothing": b"",
    "text": b"<html>",
    "length 3": b"0003",
    "length -1": b"-001",
    "length +5": b"+005x",
    "no hex": b"zzzz",
    "response end": b"0002",
    "short": b"ffff" + b"x" * 100,
    "cut length": b"00",
    "no flush": pkt(b"x" * 50),
    "only a flush": FLUSH,
    "many flushes": FLUSH * 100,
    "error": pkt(b"ERR no"),
    "empty line": pkt(b""),
    "one word": pkt(b"word\n") + FLUSH,
    "no utf-8": pkt(b"\xff\xfe \xff\n") + FLUSH,
}


@pytest.mark.parametrize("stage", ["advertisement", "refs", "pack"])
@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_answers(stage: str, name: str) -> None:
    """Malformed pkt-lines at any stage end in a protocol error, in that of an empty repository, or in the server's."""
    for start in (b"", pkt(SERVICE_LINE) + FLUSH) if stage == "advertisement" else (b"", pkt(b"packfile\n")):
        error = refusal(at(stage, body(start + MALFORMED[name])))

        assert isinstance(error, RemoteProtocolError | RemoteError | RepositoryEmpty | RefNotFound)


@pytest.mark.parametrize(
    "line",
    [
        f"{ID[:-1]} HEAD\n",
        f"{ID}1 HEAD\n",
        f"{'G' * 40} HEAD\n",
        f"{'A' * 40} HEAD\n",
        f"{'1' * 64} HEAD\n",
        f"{ID}\n",
        "HEAD\n",
        " \n",
        f"{ID} HEAD symref-target\n\n",
    ],
)
def test_malformed_refs(line: str) -> None:
    """Ids that are none, and lines that name no ref, are refused or leave the ref unknown."""
    answer = at("refs", body(pkt(line.encode()) + FLUSH))
    if "symref" in line:
        assert fetch_from(answer).outcome["head_branch"] == ""
    else:
        assert isinstance(refusal(answer), RemoteProtocolError | RepositoryEmpty | RefNotFound)


@pytest.mark.parametrize(
    "name",
    [
        "refs/heads/../../x",
        "refs/heads/a\x1b[31m",
        "refs/heads/a..b",
        "refs/heads/.x",
        "refs/heads/x.lock",
        "../x",
        "main",
    ],
)
def test_bad_names_are_dropped(name: str) -> None:
    """A branch that HEAD points to, or a tag, with a name that Git refuses is left out of the outcome."""
    tag = name.replace("refs/heads/", "refs/tags/")
    refs = pkt(f"{ID} HEAD symref-target:{name}\n".encode()) + pkt(f"{ID} {tag}\n".encode())
    fetched = fetch_from(at("refs", body(refs + pkt(f"{ID} refs/tags/good\n".encode()) + FLUSH)))

    assert fetched.outcome["head_branch"] == ""
    assert fetched.outcome["tags"] == (("refs/tags/good", ID),)


def test_packfile_uris_are_not_followed() -> None:
    """A server that names another place for the pack is refused, and the place is not asked."""
    with HostileServer(v2_server()) as target:
        uris = pkt(b"packfile-uris\n") + pkt(f"https://{target.host}/x.pack sha1 {ID}\n".encode()) + pkt(b"packfile\n")
        error = refusal(at("pack", body(uris + b"".join(sideband(pack_of())) + FLUSH)))

    assert error.fields == {"reason": "request outside of the repository"}
    assert target.connections == 0


@pytest.mark.parametrize("stage", ["advertisement", "refs", "pack"])
@pytest.mark.parametrize("name", ECHOES)
def test_remote_text_goes_nowhere(
    stage: str, name: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """A server that prints the token back finds it neither in the error nor in an event or a log (H19, H20)."""
    caplog.set_level("DEBUG", logger="coderepos")
    error = refusal(at(stage, ECHOES[name]), username="user", password=TOKEN)

    logged = [record.getMessage() for record in caplog.records if record.name.startswith("coderepos")]
    said = f"{error} {error.fields} {json.dumps(error_event(error))} {logged} {capfd.readouterr()}"
    assert TOKEN not in said
    assert "dXNlcjp0b2szbi12QWx1ZQ" not in said
    assert "\x1b" not in said


def test_child_is_silent_about_remote_text() -> None:
    """Lines that it does not understand the child keeps to itself."""
    with HostileServer(at("refs", ECHOES["line"])) as server:
        run = run_child(fetch_request(server, server.url, username="user", password=TOKEN))

    assert run.last["event"] == "error"
    assert TOKEN not in run.stderr + json.dumps(run.events)


@pytest.mark.parametrize("stage", ["advertisement", "refs", "pack"])
@pytest.mark.parametrize("hostile", [cut_off, cut_off_chunk, hang_up])
def test_broken_connections_are_worth_another_try(stage: str, hostile: Answer) -> None:
    """A connection that breaks in the middle is an error that may be retried."""
    error = refusal(at(stage, hostile))

    assert isinstance(error, RemoteUnreachable)
    assert error.retryable


def test_connection_closed_between_requests() -> None:
    """A server that closes the connection after each answer, with or without saying so, is asked over new ones."""

    def silently(exchange: Exchange) -> None:
        v2_server()(exchange)
        raise ConnectionError

    def by_length(exchange: Exchange) -> None:
        data = {True: capabilities(), False: ls_refs([("HEAD", ID)])}[exchange.is_advertisement]
        if not exchange.is_advertisement and not exchange.is_ls_refs:
            data = pkt(b"packfile\n") + b"".join(sideband(pack_of())) + FLUSH
        content_type = ADVERTISEMENT if exchange.is_advertisement else RESULT
        exchange.send(f"HTTP/1.0 200 x\r\nContent-Type: {content_type}\r\n\r\n".encode() + data)
        raise ConnectionError

    for answer in (silently, by_length):
        with HostileServer(answer) as server:
            assert run_fetch(fetch_request(server, server.url)).pack == pack_of()
            assert server.connections == 3


def test_answer_with_more_than_was_read() -> None:
    """Bytes after the end of an advertisement cost a connection at most, not the fetch."""
    answer = at("advertisement", body(capabilities() + b"x" * 200_000))
    with HostileServer(answer) as server:
        assert run_fetch(fetch_request(server, server.url)).pack == pack_of()
        assert server.connections <= 2


@pytest.mark.parametrize("stage", sampled(["advertisement", "refs", "pack"], every=3))
@pytest.mark.parametrize("hostile", [headers_drip, header_lines_drip, body_drips, chunks_drip, continues, stalls])
def test_slow_servers_end_at_the_deadline(stage: str, hostile: Answer) -> None:
    """Drips of every kind end at the deadline, silence at the end of one wait (H32)."""
    started = time.monotonic()
    error = refusal(at(stage, hostile), limits=HASTY)

    assert isinstance(error, RemoteTimeout)
    assert time.monotonic() - started < 2.5


@pytest.mark.parametrize("piece", [b"\1x", b"\1", b"\2."])
def test_pack_that_drips_ends_at_the_deadline(piece: bytes) -> None:
    """Pack bytes, keep-alives or progress that keep coming do not move the deadline."""

    def pack(exchange: Exchange) -> Iterator[bytes]:
        yield pkt(b"\1PACK")
        while exchange.wait(0.05):
            yield pkt(piece)

    assert isinstance(refusal(v2_server(pack=pack), limits=HASTY), RemoteTimeout)


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 400 no\r\n\r\n", b"\x16\x03\x03\x40\x00" + b"\0" * 100])
def test_tls_that_goes_wrong(first: bytes) -> None:
    """A handshake that stalls is a timeout, one that fails is a host that cannot be reached."""

    def greet(connection: socket.socket, stopping: threading.Event) -> None:
        connection.recv(5)
        connection.sendall(first)
        if first.startswith(b"HTTP"):
            return
        stopping.wait(20)

    with HostileServer(greet=greet) as server, pytest.raises((RemoteTimeout, RemoteUnreachable)) as caught:
        run_fetch(fetch_request(server, server.url.replace("http://", "https://"), limits=HASTY))

    assert isinstance(caught.value, RemoteUnreachable if first.startswith(b"HTTP") else RemoteTimeout)


def test_certificate_for_another_name(tmp_path: Path) -> None:
    """A certificate that is trusted but names another host is refused, before any request is sent."""
    context, certificate = tls_server(tmp_path, "other.example")

    with HostileServer(v2_server(), tls_context=context) as server, pytest.raises(RemoteCertificate, match="name"):
        run_fetch(fetch_request(server, server.url, policy=server.policy(ca_bundle=str(certificate))))

    assert server.requests == []


def test_old_tls_is_refused(tmp_path: Path) -> None:
    """TLS 1.1 and older are not spoken."""
    context, certificate = tls_server(tmp_path)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1

    with HostileServer(v2_server(), tls_context=context) as server, pytest.raises(RemoteUnreachable):
        run_fetch(fetch_request(server, server.url, policy=server.policy(ca_bundle=str(certificate))))


def test_closed_port_looks_like_a_blocked_address() -> None:
    """Closed port, blocked address and unknown name cannot be told apart by the error (H8)."""
    with HostileServer() as server:
        closed_url, closed = server.url, server.policy()
    told = set()
    for url, policy in (
        (closed_url, closed),
        ("https://127.0.0.1/r", None),
        ("https://10.0.0.1/r", None),
        ("https://169.254.169.254/r", None),
        ("https://[::1]/r", None),
        ("https://nothing.invalid/r", None),
    ):
        with pytest.raises(RemoteUnreachable) as caught:
            run_fetch(fetch_request(server, url, policy=policy or NetworkPolicy()))
        told.add((str(caught.value), str(caught.value.fields)))

    assert len(told) == 1


def test_blocked_address_is_never_connected_to() -> None:
    """A local server that the settings do not list as private gets no connection, though it may be asked by http."""
    with HostileServer(v2_server()) as server:
        policy = NetworkPolicy(insecure_http_hosts=(server.host,))
        with pytest.raises(RemoteUnreachable):
            run_fetch(fetch_request(server, server.url, policy=policy))

    assert server.connections == 0


CHUNKED = f"HTTP/1.1 200 x\r\nContent-Type: {ADVERTISEMENT}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()


FLOODS: dict[str, tuple[Answer, type[GitError]]] = {
    "a million refs in v0": (v0_million, TooManyRefs),
    "a million refs in v2": (
        at("refs", lambda exchange: exchange.stream(million_refs(f"{ID} refs/tags/{{number}}"), RESULT)),
        TooManyRefs,
    ),
    "a million refs without line ends": (
        at("refs", lambda exchange: exchange.stream(million_refs(f"{ID} refs/tags/{{number}}", ""), RESULT)),
        TooManyRefs,
    ),
    "capabilities": (endless_body(pkt(SERVICE_LINE) + FLUSH + pkt(b"ab") * 10_000), RemoteProtocolError),
    "service lines": (endless_body(pkt(b"ab") * 10_000), RemoteProtocolError),
    "version 2 without end": (endless_body(pkt(b"version 2\n") * 5_000), RemoteProtocolError),
    "packfile uris": (
        at("pack", endless_body(pkt(b"packfile-uris\n") + pkt(b"x") * 10_000)),
        RemoteProtocolError,
    ),
    "shallow lines": (
        at("pack", endless_body(pkt(b"shallow-info\n") + pkt(f"shallow {ID}".encode()) * 1_000)),
        RemoteProtocolError,
    ),
    "acknowledgements": (at("pack", endless_body(pkt(b"ACK x ready\n") * 5_000)), RemoteProtocolError),
    "one header": (raw(b"HTTP/1.1 200 x\r\n", b"X" * 65_536), RemoteProtocolError),
    "headers": (raw(b"HTTP/1.1 200 x\r\n", b"X: y\r\n" * 1_000), RemoteProtocolError),
    "continue": (raw(b"", b"HTTP/1.1 100 x\r\n\r\n" * 5_000), RemoteProtocolError),
    "progress before the pack": (v2_server(pack=endless(pkt(b"\2" + b"." * 60_000))), PreambleTooLarge),
    "small progress before the pack": (v2_server(pack=endless(pkt(b"\2.") * 5_000)), PreambleTooLarge),
    "keep-alives": (v2_server(pack=endless(pkt(b"\1") * 5_000)), PreambleTooLarge),
    "progress after the pack": (
        v2_server(pack=lambda exchange: chain(sideband(pack_of()), endless(pkt(b"\2" + b"." * 60_000))(exchange))),
        RemoteProtocolError,
    ),
    "pieces of one byte": (v2_server(pack=endless(pkt(b"\1x") * 5_000)), RemoteProtocolError),
    "a pack without end": (v2_server(pack=endless(pkt(b"\1" + b"x" * 65_000))), RepositoryTooLarge),
    "chunk extensions": (raw(CHUNKED, b"1;" + b"x" * 60_000 + b"\r\n0\r\n"), RemoteProtocolError),
    "trailers": (raw(CHUNKED + b"0\r\n", b"X: y\r\n" * 5_000), RemoteProtocolError),
}


@pytest.mark.parametrize("name", FLOODS)
def test_floods_end_soon_and_in_small(name: str) -> None:
    """Whatever a server sends without end costs the child less than 5 seconds and 300 MB (H28, H29, H31, H32)."""
    answer, kind = FLOODS[name]
    with HostileServer(answer) as server:
        run: ChildRun = run_child(fetch_request(server, server.url, limits=Limits(clone_seconds=20)))

    assert run.last.get("code") == kind.code, run.events
    assert run.seconds < 5
    assert run.peak_mb < 300
    assert run.stderr == ""


def test_as_many_tags_as_are_allowed() -> None:
    """A repository with nearly 50,000 tags is fetched, in little time and memory."""
    refs = [("HEAD", ID), *((f"refs/tags/release-{number}", ID) for number in range(49_900))]
    with HostileServer(v2_server(refs)) as server:
        run = run_child(fetch_request(server, server.url))

    assert run.last["event"] == "outcome"
    assert len(run.last["tags"]) == 49_900
    assert run.seconds < 10
    assert run.peak_mb < 150


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    stage=st.sampled_from(["advertisement", "refs", "pack"]),
    data=st.binary(max_size=200)
    | st.lists(
        st.sampled_from([FLUSH, b"0001", pkt(SERVICE_LINE), pkt(b"version 2\n"), pkt(b"packfile\n")])
        | st.binary(max_size=40).map(pkt)
    ).map(b"".join),
)
def test_any_answer_ends_in_an_error_of_ours(stage: str, data: bytes) -> None:
    """Whatever bytes a server answers with, no foreign exception comes out."""
    with suppress(GitError):
        fetch_from(at(stage, body(data)))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(stage=st.sampled_from(["advertisement", "refs", "pack"]), position=st.integers(0, 400), mask=st.integers(1, 255))
def test_any_changed_byte_ends_in_an_error_of_ours_or_in_none(stage: str, position: int, mask: int) -> None:
    """One changed byte of a valid answer, its HTTP head included, lets no foreign exception out and nothing hang."""

    def changed(exchange: Exchange) -> None:
        data = {
            "advertisement": capabilities(),
            "refs": ls_refs([("HEAD", ID), ("refs/tags/x", ID)]),
            "pack": pkt(b"packfile\n") + b"".join(sideband(pack_of((3, b"content")))) + FLUSH,
        }[stage]
        content_type = ADVERTISEMENT if exchange.is_advertisement else RESULT
        raw = bytearray(
            f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
        )
        raw[position % len(raw)] ^= mask
        exchange.send(bytes(raw))
        raise ConnectionError

    started = time.monotonic()
    with suppress(GitError):
        fetch_from(at(stage, changed))
    assert time.monotonic() - started < 5
