"""The child process that talks to the Git host: it has the token, writes no files and parses no Git objects.

It reads its request on standard input, writes pack bytes to a pipe and events to standard output (see
:mod:`coderepos.git.wire`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from coderepos.exceptions import (
    CodeReposError,
    GitError,
    InternalError,
    OutOfMemory,
    PreambleTooLarge,
)
from coderepos.git.confinement import profiles
from coderepos.git.credentials import basic_authorization
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.platforms import KNOWN_HOSTS, KnownHost
from coderepos.git.process.emitter import Emit, emit_to, error_event
from coderepos.git.refs import RefListing
from coderepos.git.remote_text import is_harmless, remote_error
from coderepos.git.transport.discovery import discover, repository_connection
from coderepos.git.transport.exchange import Exchange
from coderepos.git.transport.meter import Meter
from coderepos.git.transport.pace import Pace
from coderepos.git.transport.pack_sink import PackSink
from coderepos.git.transport.platform_api import expiry_from_headers
from coderepos.git.transport.platform_queries import start_platform_queries
from coderepos.git.transport.upload_pack import UploadPackClient
from coderepos.git.url import GitUrl, parse_git_url, proxy_of, read_git_url
from coderepos.git.wire import MESSAGE_BYTES, FetchRequest, fetch_request, load_line


def main(pack_fd: int) -> int:
    """Run the child process and return its exit status.

    :param pack_fd: descriptor that takes the pack bytes.
    """
    return run(sys.stdin.buffer.readline(MESSAGE_BYTES + 1), pack_fd, emit_to(sys.stdout.fileno()))


def run(line: bytes, pack_fd: int, emit: Emit) -> int:
    """Confine this process for good, do what the request line says, and return the exit status."""
    try:
        request = fetch_request(load_line(line))
        url = parse_git_url(request.url, request.policy)
        ports = connect_ports(url, request.policy, KNOWN_HOSTS.get(url.authority))
        with_tls = url.scheme == "https" or request.wants_platform_size or bool(request.password)
        emit({"event": "started", "isolation": profiles.confine_fetch(request, ports=ports, with_tls=with_tls)})
        outcome = fetch(request, url, pack_fd, emit)
        # The other child waits for the end of the pack, and the end of this process takes milliseconds more.
        os.close(pack_fd)
        emit({"event": "outcome", **outcome})
    except CodeReposError as error:
        emit(error_event(error))
        return 1
    except Exception as error:
        told = OutOfMemory() if isinstance(error, MemoryError) else InternalError()
        emit(error_event(told, cause=error))
        return 1
    return 0


def connect_ports(url: GitUrl, policy: NetworkPolicy, known: KnownHost | None) -> set[int]:
    """Return the TCP ports that may be connected to: of the host and its platform's API, or of the proxy."""
    apis = (known.api, known.token_api) if known else ()
    origins = [url, *(read_git_url(api) for api in apis if api)]
    return {(proxy_of(origin, policy) or origin).port for origin in origins}


def fetch(
    request: FetchRequest, url: GitUrl, pack_fd: int, emit: Emit, *, hosts: Mapping[str, KnownHost] = KNOWN_HOSTS
) -> dict[str, Any]:
    """Fetch the wanted ref, write its pack to ``pack_fd`` and return the fields of the outcome.

    The platform's API is queried meanwhile.

    :param url: the URL of the request, parsed.
    :param hosts: the Git hosts whose platform is known.
    :raises GitError: the subclass for what went wrong.
    :raises InternalError: nobody reads the pack any more.
    """
    emit({"event": "progress", "phase": "connecting"})
    limits = request.limits

    def too_large(received_bytes: int) -> GitError:
        return PreambleTooLarge(figure=received_bytes, limit=limits.preamble_bytes)

    meter = Meter(
        seconds=limits.clone_seconds,
        receive_seconds=limits.receive_seconds,
        allowed_bytes=limits.preamble_bytes,
        error=too_large,
        pace=Pace(limits) if limits.min_bytes_per_second else None,
    )
    connection = repository_connection(url, request.policy, meter)
    headers = {"Pragma": "no-cache", **authorization(request)}
    queries = start_platform_queries(request, url, hosts)
    try:
        discovery = discover(url, connection, headers)
        secrets = (request.username or "", request.password or "")
        refs = RefListing(request.ref, limits, with_tags=not request.count_only)
        client = UploadPackClient(
            connection, discovery, headers, limits, refs, remote_error=lambda text: remote_error(text, secrets)
        )
        sink = PackSink(request, pack_fd, meter, emit)
        exchange = Exchange(request, client, refs, sink, is_harmless=lambda name: is_harmless(name, secrets))
        return {
            **exchange.run(),
            "platform_size_bytes": queries.size_bytes(),
            "token_expires_at": queries.token_expires_at() or expiry_from_headers(discovery.advertisement.headers),
        }
    finally:
        connection.close()


def authorization(request: FetchRequest) -> dict[str, str]:
    """Return the ``Authorization`` header; nothing without credentials."""
    if not request.username and not request.password:
        return {}
    return {"Authorization": basic_authorization(request.username or "", request.password or "")}
