"""A Git host that drips is given up long before the deadline, and a slow disk of ours blames no host."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count

import pytest

from coderepos.exceptions import RemoteTooSlow
from coderepos.git.fetch import fetch
from coderepos.git.limits import Limits
from coderepos.git.url import parse_git_url
from tests.support.fetch_child import fetch_request, run_fetch
from tests.support.hostile_answers import at, body_drips, headers_drip, stalls
from tests.support.servers.hostile import HostileServer, pack_of, pkt, sideband, v2_server
from tests.support.servers.http_server import Exchange

DEADLINE_SECONDS = 30
LIMITS = Limits(
    clone_seconds=DEADLINE_SECONDS,
    receive_seconds=DEADLINE_SECONDS,
    min_bytes_per_second=100_000,
    rate_grace_seconds=0.3,
    rate_window_seconds=0.6,
    preparation_seconds=0.8,
)
"""As in production, forty times as fast."""

Pack = Callable[[Exchange], Iterator[bytes]]


def drip(exchange: Exchange) -> Iterator[bytes]:
    """A pack of a kilobyte a second."""
    yield pkt(b"\1PACK")
    while exchange.wait(0.02):
        yield pkt(b"\1" + bytes(20))


def pause(exchange: Exchange) -> Iterator[bytes]:
    """A pack that begins well, and stops."""
    yield pkt(b"\1PACK" + bytes(60_000))
    exchange.wait(DEADLINE_SECONDS)


def count_for_ever(exchange: Exchange) -> Iterator[bytes]:
    """Progress before the pack, much faster than a pack would have to be."""
    for number in count():
        if not exchange.wait(0.02):
            return
        yield pkt(b"\2Counting objects: %d\r" % number + b"." * 4_000)


def report_for_ever(exchange: Exchange) -> Iterator[bytes]:
    """Progress in the midst of a pack."""
    yield pkt(b"\1PACK")
    yield from count_for_ever(exchange)


@pytest.mark.parametrize("pack", [drip, pause, count_for_ever, report_for_ever])
def test_pack_that_hardly_comes_is_given_up(pack: Pack) -> None:
    """Neither single bytes nor progress keep a fetch alive."""
    started = time.monotonic()

    with HostileServer(v2_server(pack=pack)) as server, pytest.raises(RemoteTooSlow):
        run_fetch(fetch_request(server, server.url, limits=LIMITS))

    assert time.monotonic() - started < DEADLINE_SECONDS / 2


@pytest.mark.parametrize("stage", ["advertisement", "refs", "pack"])
@pytest.mark.parametrize("hostile", [headers_drip, body_drips, stalls])
def test_answers_that_hardly_come_are_given_up(stage: str, hostile: Callable[[Exchange], None]) -> None:
    """That holds before the pack too, for every answer."""
    started = time.monotonic()

    with HostileServer(at(stage, hostile)) as server, pytest.raises(RemoteTooSlow):
        run_fetch(fetch_request(server, server.url, limits=LIMITS))

    assert time.monotonic() - started < DEADLINE_SECONDS / 2


def test_time_for_preparation_is_granted() -> None:
    """A host may count objects for a while, and a pack that takes less than the time of grace may be slow."""
    pack = pack_of((3, b"x"))

    def slow_start(exchange: Exchange) -> Iterator[bytes]:
        exchange.wait(0.4)
        yield from sideband(pack, size=20)

    with HostileServer(v2_server(pack=slow_start)) as server:
        assert run_fetch(fetch_request(server, server.url, limits=LIMITS)).pack == pack


def test_reader_that_is_slow_blames_no_host() -> None:
    """While the build child takes nothing from the pipe, the host has no chance to send, however long that is."""
    pack = pack_of((3, os.urandom(3_000_000)))
    reader, writer = os.pipe()
    received = bytearray()
    limits = replace(LIMITS, min_bytes_per_second=1_000_000)

    def read() -> None:
        time.sleep(2.5)
        while part := os.read(reader, 1 << 20):
            received.extend(part)

    slow = threading.Thread(target=read)
    slow.start()
    try:
        with HostileServer(v2_server(pack=lambda exchange: sideband(pack))) as server:
            request = fetch_request(server, server.url, limits=limits)
            fetch(request, parse_git_url(request.url, request.policy), writer, lambda event: None)
    finally:
        os.close(writer)
        slow.join()
        os.close(reader)

    assert bytes(received) == pack


def test_any_speed_will_do_where_none_is_asked_for() -> None:
    """With a rate of 0 only the deadline and the longest pause count."""
    pack = pack_of((3, b"x" * 50))

    def slowly(exchange: Exchange) -> Iterator[bytes]:
        for piece in sideband(pack, size=4):
            exchange.wait(0.15)
            yield piece

    limits = Limits(clone_seconds=DEADLINE_SECONDS, min_bytes_per_second=0, rate_grace_seconds=0, preparation_seconds=0)
    with HostileServer(v2_server(pack=slowly)) as server:
        assert run_fetch(fetch_request(server, server.url, limits=limits)).pack == pack
