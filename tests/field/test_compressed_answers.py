"""Answers that are compressed though nobody asked for that."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from coderepos.exceptions import GitError, PreambleTooLarge, RemoteProtocolError, RemoteUnreachable, RepositoryTooLarge
from coderepos.git.limits import Limits
from tests.support.fetch_child import ChildRun, Fetched, fetch_request, run_child, run_fetch
from tests.support.git import make_repository
from tests.support.servers.git_http_backend import GitServer
from tests.support.servers.hostile import (
    ADVERTISEMENT,
    FLUSH,
    RESULT,
    Answer,
    HostileServer,
    capabilities,
    ls_refs,
    pack_of,
    pkt,
    sideband,
)
from tests.support.servers.http_server import Exchange
from tests.support.site import Site

pytestmark = pytest.mark.of_any_database

REFS = [("HEAD", "1" * 40), ("refs/heads/main", "1" * 40)]
PACK = pack_of((3, b"x" * 5_000), (3, bytes(range(256)) * 300))


def test_clone_through_a_server_that_compresses(site: Site, tmp_path: Path) -> None:
    """A host that compresses whatever leaves it is connected and cloned like any other.

    https://github.com/gchq/stroom/issues/5797
    """
    source = make_repository(tmp_path / "remote" / "source", commits=4)
    with GitServer(tmp_path / "remote", gzipped=True) as server:
        site.trust(server)
        repo_id = site.connected(server.url("source"))
        assert site.work(repo_id) == "succeeded"

    status = site.status(repo_id)
    assert status["clone_status"] == "COMPLETED"
    assert (Path(status["sandbox_path"]) / "file.txt").read_text() == (source / "file.txt").read_text()


def coded(coding: str, compress: object, body: bytes | None = None) -> Answer:
    """Return a server whose answers, or one body in their place, are compressed."""

    def answer(exchange: Exchange) -> None:
        content_type = ADVERTISEMENT if exchange.is_advertisement else RESULT
        if exchange.is_advertisement:
            plain = capabilities()
        elif exchange.is_ls_refs:
            plain = ls_refs(REFS)
        else:
            plain = pkt(b"packfile\n") + b"".join(sideband(PACK, size=999)) + FLUSH
        assert callable(compress)
        data = compress(plain) if body is None else body
        exchange.answer(data, content_type, Content_Encoding=coding)

    return answer


def members(data: bytes) -> bytes:
    """Return several gzip members, an empty one among them (RFC 1952, section 2.2)."""
    return gzip.compress(data[:10]) + gzip.compress(b"") + gzip.compress(data[10:])


def fetched(answer: Answer, **changes: object) -> Fetched:
    with HostileServer(answer) as server:
        return run_fetch(fetch_request(server, server.url, **changes))


@pytest.mark.parametrize(
    ("coding", "compress"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("gzip", members),
        ("deflate", zlib.compress),
        ("identity", bytes),
    ],
)
def test_codings_that_are_read(coding: str, compress: object) -> None:
    """The pack comes out to the byte in every coding that curl takes by itself."""
    assert fetched(coded(coding, compress)).pack == PACK


def refusal(answer: Answer, **changes: object) -> GitError:
    with pytest.raises(GitError) as caught:
        fetched(answer, **changes)
    return caught.value


@pytest.mark.parametrize(
    ("coding", "compress", "kind"),
    [
        ("gzip", bytes, RemoteProtocolError),
        ("gzip", zlib.compress, RemoteProtocolError),
        ("deflate", gzip.compress, RemoteProtocolError),
        ("gzip", lambda data: gzip.compress(data) + b"garbage", RemoteProtocolError),
        ("gzip", lambda data: gzip.compress(data) + b"\0\0", RemoteProtocolError),
        ("deflate", lambda data: zlib.compress(data) + zlib.compress(b""), RemoteProtocolError),
        ("gzip", lambda data: gzip.compress(data)[:-15], RemoteUnreachable),
        ("gzip", lambda data: gzip.compress(data)[:-8] + b"12345678", RemoteProtocolError),
        ("gzip", lambda data: b"", RemoteUnreachable),
    ],
)
def test_broken_compression(coding: str, compress: object, kind: type[GitError]) -> None:
    """What is in another coding, goes on after its end or has a wrong checksum is refused; a cut may be tried again."""
    assert type(refusal(coded(coding, compress))) is kind


def child(answer: Answer, **changes: object) -> ChildRun:
    with HostileServer(answer) as server:
        return run_child(fetch_request(server, server.url, **changes))


def endless(piece: bytes, first: bytes = b"") -> Answer:
    """Return a server whose third answer is compressed and does not end."""

    def pieces(exchange: Exchange) -> Iterator[bytes]:
        deflate = zlib.compressobj(1, wbits=16 + zlib.MAX_WBITS)
        yield deflate.compress(first) + deflate.flush(zlib.Z_SYNC_FLUSH)
        while not exchange.stopping.is_set():
            yield deflate.compress(piece * 20) + deflate.flush(zlib.Z_SYNC_FLUSH)

    def answer(exchange: Exchange) -> None:
        if exchange.is_advertisement or exchange.is_ls_refs:
            coded("gzip", gzip.compress)(exchange)
        else:
            exchange.head(Content_Type=RESULT, Content_Encoding="gzip", Transfer_Encoding="chunked")
            for data in pieces(exchange):
                exchange.send(b"%x\r\n%s\r\n" % (len(data), data))

    return answer


BOMBS = {
    "zeros": coded("gzip", bytes, gzip.compress(bytes(100_000_000), 1)),
    "progress": endless(pkt(b"\2" + bytes(60_000)), pkt(b"packfile\n")),
    "empty members": coded("gzip", bytes, gzip.compress(b"") * 350_000),
    "pack": endless(pkt(b"\1" + bytes(60_000)), pkt(b"packfile\n")),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_end_at_the_limits(name: str) -> None:
    """What a body inflates to counts as if it had come over the wire, and takes neither time nor memory."""
    run = child(BOMBS[name], limits=Limits(wire_bytes=20_000_000, clone_seconds=20))

    assert run.last["event"] == "error"
    assert run.last["code"] in {"preamble_too_large", "repository_too_large", "remote_protocol_error"}
    assert run.peak_mb < 100
    assert run.seconds < 6


def test_inflated_bytes_are_the_ones_that_count() -> None:
    """A preamble that is small on the wire is as large as what it inflates to."""
    assert isinstance(refusal(BOMBS["progress"]), PreambleTooLarge)
    assert isinstance(refusal(BOMBS["pack"], limits=Limits(wire_bytes=10**6)), RepositoryTooLarge)
