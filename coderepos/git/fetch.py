"""The child process that talks to the Git host: it owns the token, writes no file and parses no Git object.

It reads its request on standard input, writes pack bytes to a pipe and events to standard output (see
:mod:`coderepos.git.messages`).
"""

from __future__ import annotations

import base64
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from coderepos.exceptions import (
    CodeReposError,
    InternalError,
    RefNotFound,
    RemoteProtocolError,
    RepositoryEmpty,
    RepositoryTooLarge,
    TooManyRefs,
)
from coderepos.git.connection import Meter
from coderepos.git.limits import SIZE_FACTOR
from coderepos.git.messages import LINE_BYTES, FetchOutcome, FetchRequest, dump_line, fetch_request, load_line
from coderepos.git.network import GuardedConnection
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

CONTENT_TYPES: Final = ("application/x-git-upload-pack-advertisement", "application/x-git-upload-pack-result")

PROGRESS_SECONDS: Final = 0.2

TRACE_FRAMES: Final = 40

Emit = Callable[[Mapping[str, Any]], None]

T = TypeVar("T")


class StoppedEarly(Exception):
    """A probe counted enough to know that the repository is too large; never leaves :func:`fetch`."""


def main(pack_fd: int) -> int:
    """Run the child process and return its exit status.

    :param pack_fd: descriptor that takes the pack bytes.
    """
    return run(sys.stdin.buffer.readline(LINE_BYTES + 1), pack_fd, emit_to(sys.stdout.fileno()))


def run(line: bytes, pack_fd: int, emit: Emit) -> int:
    """Confine this process for good, do what the request line says, and return the exit status."""
    from coderepos.git.isolation import confine_fetch

    try:
        request = fetch_request(load_line(line))
        ports = (parse_git_url(request.url, request.policy).port,)
        emit({"event": "started", "isolation": confine_fetch(request, ports=ports)})
        emit({"event": "outcome", **fetch(request, pack_fd, emit)})
    except CodeReposError as error:
        emit(error_event(error))
        return 1
    except Exception as error:
        emit(error_event(InternalError(), cause=error))
        return 1
    return 0


def fetch(request: FetchRequest, pack_fd: int, emit: Emit) -> dict[str, Any]:
    """Fetch the wanted ref, write its pack to ``pack_fd`` and return the fields of the outcome.

    The first request is under way while dulwich is loaded.

    :raises GitError: the leaf that says what went wrong.
    :raises InternalError: nobody reads the pack any more.
    """
    emit({"event": "progress", "phase": "connecting"})
    url, limits = parse_git_url(request.url, request.policy), request.limits
    meter = Meter(
        seconds=limits.clone_seconds,
        receive_seconds=limits.receive_seconds,
        allowed_bytes=limits.preamble_bytes,
        reason="preamble too large",
    )
    advertisement_url = f"{url.base}/info/refs?service=git-upload-pack"
    connection = GuardedConnection(
        url,
        request.policy,
        meter,
        requests=(("GET", advertisement_url), ("POST", f"{url.base}/git-upload-pack")),
        content_types=CONTENT_TYPES,
    )
    headers = {"Pragma": "no-cache", **authorization(request)}
    counter = RefCounter(limits)
    advertisement = Background(
        lambda: connection.request(
            "GET", advertisement_url, {"Accept": "*/*", "Git-Protocol": "version=2", **headers}, inspect=counter
        )
    )
    try:
        from coderepos.git.upload_pack import UploadPackClient

        client = UploadPackClient(
            url.base,
            connection,
            headers=headers,
            advertisement=advertisement.result,
            inspect=counter,
            include_tags=not request.count_only,
        )
        return exchange(request, client, PackWriter(request, pack_fd, meter, emit))
    finally:
        advertisement.wait()
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

    symrefs: dict[bytes, bytes] = {}
    shallow: Iterable[bytes] = ()
    stopped_early = False
    try:
        result = client.receive(
            determine_wants,
            writer.write,
            depth=request.depth,
            ref_prefixes=ref_prefixes(request.ref, with_tags=with_tags),
        )
        symrefs.update(result.symrefs)
        shallow = result.new_shallow or ()
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
    head_branch = ref_text(symrefs.get(HEAD, b""))
    outcome = FetchOutcome(
        wanted_id=wanted[0].object_id,
        ref_name=head_branch if wanted[0].name == HEAD else ref_text(wanted[0].name),
        head_branch=head_branch,
        tags=advertised_tags(advertised) if with_tags else (),
        shallow=tuple(sorted(object_id(one) for one in shallow)),
        pack_bytes=writer.pack_bytes,
    )
    return {**outcome.to_json(), "stopped_early": stopped_early}


class PackWriter:
    """Takes the pack bytes as they arrive: counts them, and passes them on unless it is a probe."""

    def __init__(self, request: FetchRequest, pack_fd: int, meter: Meter, emit: Emit) -> None:
        self.pack_bytes = 0
        self._limits: Final = request.limits
        self._count_only: Final = request.count_only
        self._pack_fd: Final = pack_fd
        self._meter: Final = meter
        self._emit: Final = emit
        self._next_progress = 0.0

    def write(self, data: bytes) -> int:
        """Take the next bytes; none at all keep the connection alive.

        :raises RepositoryTooLarge: the pack is larger than the limit.
        :raises StoppedEarly: a probe knows enough.
        """
        limit_bytes = self._limits.wire_bytes
        if data and not self.pack_bytes:
            self._meter.allow(
                limit_bytes + limit_bytes // 8 + self._limits.preamble_bytes, reason="too much besides the pack"
            )
        self.pack_bytes += len(data)
        if self._count_only:
            if self.pack_bytes * SIZE_FACTOR > limit_bytes:
                raise StoppedEarly
        elif self.pack_bytes > limit_bytes:
            raise RepositoryTooLarge(figure=self.pack_bytes, limit=limit_bytes)
        else:
            self._pass_on(data)
        if time.monotonic() >= self._next_progress:
            self._tell_progress()
        return len(data)

    def finish(self) -> None:
        """Tell the last figure.

        :raises RemoteProtocolError: there was no pack.
        """
        if not self.pack_bytes:
            raise RemoteProtocolError(reason="no pack")
        self._tell_progress()

    def _pass_on(self, data: bytes) -> None:
        try:
            written = os.write(self._pack_fd, data)
            while written < len(data):
                written += os.write(self._pack_fd, memoryview(data)[written:])
        except BrokenPipeError:
            # The build child is gone; what it said about that is the true cause.
            raise InternalError(reason="nobody reads the pack") from None

    def _tell_progress(self) -> None:
        self._next_progress = time.monotonic() + PROGRESS_SECONDS
        self._emit({"event": "progress", "phase": "receiving", "received_bytes": self.pack_bytes})


class Background(Generic[T]):
    """A call that runs in a thread of its own from the start."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call: Final = call
        self._value: T
        self._error: BaseException | None = None
        self._thread: Final = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def result(self) -> T:
        """Wait for the call and return its value, or raise its exception."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._value

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


def emit_to(descriptor: int) -> Emit:
    """Return a function that writes events to a descriptor, one line each."""

    def emit(event: Mapping[str, Any]) -> None:
        rest = memoryview(dump_line(event))
        while rest:
            rest = rest[os.write(descriptor, rest) :]

    return emit


def error_event(error: CodeReposError, *, cause: BaseException | None = None) -> dict[str, Any]:
    """Return the event of an error: its code and fields, and the places in the code that it came through."""
    origin = cause or error
    while origin.__cause__ or origin.__context__:
        origin = origin.__cause__ or origin.__context__ or origin
    frames = [place for one in (error, origin) for place in traceback.walk_tb(one.__traceback__)]
    places = [f"{os.path.basename(frame.f_code.co_filename)}:{line} {frame.f_code.co_name}" for frame, line in frames]
    return {"event": "error", "code": error.code, "fields": error.fields, "trace": places[-TRACE_FRAMES:]}
