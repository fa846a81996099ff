"""Fetching from recorded answers, without a socket: every cut and every changed byte can be gone through."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, repeat
from typing import Any
from unittest.mock import patch

from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.transport.meter import Meter
from coderepos.git.url import GitUrl
from tests.support.fetch_child import Fetched, fetch_request, run_fetch
from tests.support.servers.hostile import ADVERTISEMENT, RESULT

STAGES = ("advertisement", "refs", "pack")

Answers = Mapping[str, bytes]


def by_length(body: bytes, stage: str) -> bytes:
    """Return a whole HTTP answer of a stage that tells its length."""
    return b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (_type(stage), len(body), body)


def in_chunks(body: bytes, stage: str, *, size: int = 20) -> bytes:
    """Return a whole HTTP answer of a stage in chunks."""
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n" % _type(stage)
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def _type(stage: str) -> bytes:
    return (ADVERTISEMENT if stage == "advertisement" else RESULT).encode()


class Recorded:
    """Stands in for a connection: answers each request by its stage, in receives of these sizes, then ends."""

    meter: Meter

    def __init__(self, answers: Answers, sizes: Iterable[int] = ()) -> None:
        self.requests: list[bytes] = []
        self.is_open = False
        self._answers = answers
        self._sizes: Iterator[int] = chain(sizes, repeat(1 << 30))
        self._waiting = b""

    def __call__(self, url: GitUrl, policy: NetworkPolicy, meter: Meter, resolver: Any) -> Recorded:
        self.meter = meter
        return self

    def open(self) -> None:
        self.is_open = True
        self._waiting = b""

    def close(self) -> None:
        self.is_open = False

    def send(self, data: bytes) -> None:
        self.requests.append(data)
        stage = "advertisement" if data.startswith(b"GET ") else "refs" if b"command=ls-refs" in data else "pack"
        self._waiting += self._answers[stage]

    def receive_into(self, buffer: memoryview) -> int:
        size = min(next(self._sizes), len(buffer), len(self._waiting))
        buffer[:size], self._waiting = self._waiting[:size], self._waiting[size:]
        self.meter.received(size)
        return size


class _Host:
    def policy(self) -> NetworkPolicy:
        return NetworkPolicy()


def fetch_recorded(connection: Recorded, **changes: Any) -> Fetched:
    """Run a fetch over a recorded connection."""
    with patch("coderepos.git.transport.http_connection.PinnedConnection", connection):
        return run_fetch(fetch_request(_Host(), "https://git.example/owner/repository.git", **changes))
