"""The child process that talks to the Git host: it owns the token, writes no file and parses no Git object.

It reads its request on standard input, writes pack bytes to a pipe and events to standard output (see
:mod:`coderepos.git.messages`).
"""

from __future__ import annotations

import base64
import gc
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from coderepos.exceptions import (
    CodeReposError,
    InternalError,
    RefNotFound,
    RemoteProtocolError,
    RepositoryEmpty,
    TooManyRefs,
)
from coderepos.git.child import Emit, emit_to, error_event
from coderepos.git.connection import PREAMBLE, Meter
from coderepos.git.messages import LINE_BYTES, FetchOutcome, FetchRequest, fetch_request, load_line
from coderepos.git.opening import open_repository, repository_connection
from coderepos.git.pack_writer import PackWriter, StoppedEarly
from coderepos.git.platforms import (
    ASK_SECONDS,
    KNOWN_HOSTS,
    KnownHost,
    PlatformAnswer,
    ask_platform,
    ask_token_expiry,
    token_expiry,
)
from coderepos.git.refs import (
    HEAD,
    HEADS,
    TAGS,
    RefCounter,
    WantedRef,
    advertised_tags,
    object_id,
    ref_prefixes,
    ref_text,
    wanted_ref,
)
from coderepos.git.url import parse_git_url

if TYPE_CHECKING:
    from coderepos.git.upload_pack import UploadPackClient

T = TypeVar("T")


def main(pack_fd: int) -> int:
    """Run the child process and return its exit status.

    :param pack_fd: descriptor that takes the pack bytes.
    """
    logging.disable()  # dulwich logs what servers say
    gc.disable()  # too short a life for it, and imports are faster without
    return run(sys.stdin.buffer.readline(LINE_BYTES + 1), pack_fd, emit_to(sys.stdout.fileno()))


def run(line: bytes, pack_fd: int, emit: Emit) -> int:
    """Confine this process for good, do what the request line says, and return the exit status."""
    from coderepos.git.isolation import confine_fetch

    try:
        request = fetch_request(load_line(line))
        ports = {parse_git_url(request.url, request.policy).port, *((443,) if request.ask_size else ())}
        emit({"event": "started", "isolation": confine_fetch(request, ports=ports)})
        emit({"event": "outcome", **fetch(request, pack_fd, emit)})
    except CodeReposError as error:
        emit(error_event(error))
        return 1
    except Exception as error:
        emit(error_event(InternalError(), cause=error))
        return 1
    return 0


def fetch(
    request: FetchRequest, pack_fd: int, emit: Emit, *, hosts: Mapping[str, KnownHost] = KNOWN_HOSTS
) -> dict[str, Any]:
    """Fetch the wanted ref, write its pack to ``pack_fd`` and return the fields of the outcome.

    The first request, and those to the platform's API, are under way while dulwich is loaded.

    :param hosts: the Git hosts whose platform is known.
    :raises GitError: the leaf that says what went wrong.
    :raises InternalError: nobody reads the pack any more.
    """
    emit({"event": "progress", "phase": "connecting"})
    url, limits = parse_git_url(request.url, request.policy), request.limits
    meter = Meter(
        seconds=limits.clone_seconds,
        receive_seconds=limits.receive_seconds,
        allowed_bytes=limits.preamble_bytes,
        reason=PREAMBLE,
    )
    connection = repository_connection(url, request.policy, meter)
    headers = {"Pragma": "no-cache", **authorization(request)}
    counter = RefCounter(limits)
    opening = Background(lambda: open_repository(url, connection, headers, inspect=counter))
    credentials = (request.username or "", request.password or "")
    expiry = Background(lambda: ask_token_expiry(url, request.policy, credentials, hosts=hosts))
    platform = None
    if request.ask_size:
        platform = Background(lambda: ask_platform(url, request.policy, credentials, hosts=hosts))
    try:
        from coderepos.git.upload_pack import UploadPackClient

        client = UploadPackClient(
            connection,
            headers=headers,
            opening=opening.result,
            inspect=counter,
            include_tags=not request.count_only,
            most_lines=2 * limits.refs + 1_000,
        )
        outcome = exchange(request, client, PackWriter(request, pack_fd, meter, emit))
        told = (platform and platform.result_within(ASK_SECONDS)) or PlatformAnswer()
        expires_at = (
            expiry.result_within(ASK_SECONDS)
            or told.token_expires_at
            or token_expiry(opening.result().advertisement.headers)
        )
        return {**outcome, "platform_size_bytes": told.size_bytes, "token_expires_at": expires_at}
    finally:
        opening.wait()
        connection.close()


def exchange(request: FetchRequest, client: UploadPackClient, writer: PackWriter) -> dict[str, Any]:
    """Run the protocol to its end, or until a probe has counted enough; return the fields of the outcome."""
    with_tags = not request.count_only
    advertised: dict[bytes, bytes] = {}
    wanted: list[WantedRef] = []

    def determine_wants(refs: Mapping[bytes, bytes], depth: int | None = None) -> list[bytes]:
        if len(refs) > request.limits.refs:
            raise TooManyRefs(figure=len(refs), limit=request.limits.refs)
        advertised.update(refs)
        if found := wanted_ref(refs, request.ref):
            wanted.append(found)
        return [found.object_id.encode() for found in wanted]

    head_branch, stopped_early = "", False
    shallow: tuple[str, ...] = ()
    try:
        received = client.receive(
            determine_wants,
            writer.write,
            progress=writer.count_piece,
            depth=request.depth,
            ref_prefixes=ref_prefixes(request.ref, with_tags=with_tags),
        )
        head_branch = ref_text(received.head_target)
        shallow = tuple(sorted(object_id(one) for one in received.shallow))
    except StoppedEarly:
        stopped_early = True
    except RemoteProtocolError:
        if client.fetching and wanted and not wanted[0].name and not writer.pack_bytes:
            # Servers answer an id that they do not have, or do not give away, with a text instead of a pack.
            raise RefNotFound from None
        raise
    if not wanted:
        raise RefNotFound if client.has_refs([HEADS, TAGS]) else RepositoryEmpty
    writer.finish()
    outcome = FetchOutcome(
        wanted_id=wanted[0].object_id,
        ref_name=head_branch if wanted[0].name == HEAD else ref_text(wanted[0].name),
        head_branch=head_branch,
        tags=advertised_tags(advertised) if with_tags else (),
        shallow=shallow,
        pack_bytes=writer.pack_bytes,
    )
    return {**outcome.to_json(), "stopped_early": stopped_early}


class Background(Generic[T]):
    """A call that runs in a thread of its own from the start."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call: Final = call
        self._value: T
        self._error: BaseException | None = None
        self._started: Final = time.monotonic()
        self._thread: Final = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def result(self) -> T:
        """Wait for the call and return its value, or raise its exception."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._value

    def result_within(self, seconds: float) -> T | None:
        """Return the value of the call, or ``None`` where it takes longer than this from its start."""
        self._thread.join(max(0.0, self._started + seconds - time.monotonic()))
        return None if self._thread.is_alive() else self.result()

    def wait(self) -> None:
        """Wait for the call, whatever comes of it."""
        self._thread.join()

    def _run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:
            self._error = error


def authorization(request: FetchRequest) -> dict[str, str]:
    """Return the header with the credentials (RFC 7617), none where there are none."""
    if not request.username and not request.password:
        return {}
    pair = f"{request.username or ''}:{request.password or ''}".encode()
    return {"Authorization": "Basic " + base64.b64encode(pair).decode()}
