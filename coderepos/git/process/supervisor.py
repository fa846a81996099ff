"""Starts, feeds, hears and kills one child process.

A child runs with ``python -I -S``, an empty environment, its own session and ``/`` as working directory. Its standard
input takes request lines, its standard output gives event lines, its standard error is ``/dev/null``. Without ``site``
no ``.pth`` file is run: the code in one would come before the child is confined, and takes its time at every start.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import coderepos
from coderepos.exceptions import InternalError
from coderepos.git.process.process import PACK_FD, Process, signals_blocked
from coderepos.git.wire import MESSAGE_BYTES, load_line

logger = logging.getLogger(__name__)

ROOT: Final = str(Path(coderepos.__file__).resolve().parent.parent)
"""Folder that holds the package, so that the children import the code that started them."""

EVENT_BYTES: Final = 2 * MESSAGE_BYTES
"""Most bytes that a child may say in all."""

EVENT_LINES: Final = 100_000
"""Most events of a child: five a second for more than five hours."""

PIPE_BYTES: Final = 1 << 20
"""Wanted capacity of the pack pipe: what an unprivileged user may ask for."""

_READ_BYTES: Final = 1 << 16
_REAP_SECONDS: Final = 10
_PAUSE_SECONDS: Final = 0.005

# Descriptors that a library of the host left inheritable are none of a child's.
_CLOSE_OTHERS: Final = f"""\
import os
for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else range(4096):
    if int(name) > {PACK_FD}:
        try:
            os.close(int(name))
        except OSError:
            pass
"""

# Bound to its parent before anything else, so that a child outlives nobody. The collector would make imports slower.
_CODE: Final = """\
import gc, os, sys
gc.disable()
os.chdir("/")
module, pack_fd, parent_pid, root, *libraries = sys.argv[1:]
sys.path.insert(0, root)
sys.path.extend(folder for folder in libraries if folder not in sys.path)
from coderepos.git.confinement.profiles import die_with
die_with(int(parent_pid))
__import__(module)
sys.exit(sys.modules[module].main(int(pack_fd)))
"""


class Child:
    """One child process; a context manager that leaves nothing of it behind. Make it inside of :func:`starting`.

    :param name: ``fetch`` or ``build``, for logs.
    :param module: dotted name of the module whose ``main(pack_fd)`` is run.
    :param pack_fd: descriptor of the pack pipe's end that it inherits.
    :param root: folder put first on its ``sys.path``.
    """

    def __init__(self, name: str, module: str, pack_fd: int, *, root: str = ROOT) -> None:
        self.name: Final = name
        self.finished = False
        """Whether it closed its events, or ended."""
        self._heard = bytearray()
        self._heard_bytes = 0
        self._heard_lines = 0
        self._unsent = bytearray()
        self._closing = False
        self._process: Final = Process(
            [
                *(_interpreter(), "-I", "-S", "-c", _CLOSE_OTHERS + _CODE),
                *(module, str(PACK_FD), str(os.getpid()), root, *_libraries()),
            ],
            pack_fd,
        )
        self._open_fds: Final = {self.input_fd, self.events_fd}
        os.set_blocking(self.input_fd, False)
        os.set_blocking(self.events_fd, False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    @property
    def pid(self) -> int:
        """Process id, also the id of its session and process group."""
        return self._process.pid

    @property
    def input_fd(self) -> int:
        """Descriptor of its standard input."""
        return self._process.input_fd

    @property
    def events_fd(self) -> int:
        """Descriptor of its events."""
        return self._process.output_fd

    @property
    def wants_to_send(self) -> bool:
        """Whether there are bytes that its standard input had no room for."""
        return bool(self._unsent)

    def send(self, line: bytes, *, last: bool = False) -> None:
        """Send one line, as far as there is room now; :meth:`flush` sends the rest.

        :param last: close its standard input after this line.
        """
        self._unsent += line
        self._closing = last
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as there is room now."""
        try:
            while self._unsent:
                del self._unsent[: os.write(self.input_fd, self._unsent)]
        except BlockingIOError:
            return
        except BrokenPipeError:
            # It closed its input or ended; why, its events or its exit say.
            self._unsent.clear()
        if self._closing:
            self._close(self.input_fd)

    def hear(self) -> list[dict[str, Any]]:
        """Return the events that arrived since the last call, without waiting.

        :raises InternalError: it says too much, or what is no event.
        """
        lines: list[bytes] = []
        while not self.finished:
            try:
                chunk = os.read(self.events_fd, _READ_BYTES)
            except BlockingIOError:
                break
            self.finished = not chunk
            self._heard_bytes += len(chunk)
            self._heard += chunk
            if b"\n" in chunk:
                *complete, self._heard = self._heard.split(b"\n")
                lines += map(bytes, complete)
            self._heard_lines += chunk.count(b"\n")
            if self._heard_bytes > EVENT_BYTES or self._heard_lines > EVENT_LINES or len(self._heard) > MESSAGE_BYTES:
                raise self.misbehaved("says too much")
        try:
            return [load_line(line) for line in lines]
        except (ValueError, RecursionError):
            raise self.misbehaved("says what is no event") from None

    def exit_status(self, *, within_seconds: float = 0) -> int | None:
        """Return how it ended by itself, negative for a signal, or ``None`` while it runs or where nobody can know.

        It stays a zombie until :meth:`end`, so that the id of its group stays its own.

        :param within_seconds: wait so long for its end; its pipes close a moment before it.
        """
        deadline = time.monotonic() + within_seconds
        while (status := self._process.exit_status()) is None and not self._process.is_reaped:
            if time.monotonic() >= deadline:
                break
            time.sleep(_PAUSE_SECONDS)
        return status

    def end(self) -> None:
        """Kill its process group, reap it and close its pipes.

        What a signal handler raises meanwhile goes through after that.
        """
        try:
            self._end()
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        try:
            if not self._process.end(within_seconds=_REAP_SECONDS):
                logger.error("The %s child %d does not end: the kernel holds it", self.name, self.pid)
        finally:
            with signals_blocked():
                self._close(self.input_fd)
                self._close(self.events_fd)

    def _close(self, descriptor: int) -> None:
        if descriptor in self._open_fds:
            self._open_fds.remove(descriptor)
            os.close(descriptor)

    def misbehaved(self, what: str) -> InternalError:
        """Log what this child did and return the error for it."""
        logger.warning("The %s child %s", self.name, what)
        return InternalError()


@contextmanager
def starting() -> Iterator[None]:
    """Let signals for this thread wait while children are started and handed to who ends them.

    :raises InternalError: one cannot be started; the log says why.
    """
    try:
        with signals_blocked():
            yield
    except OSError as error:
        logger.error("A child process can't be started: %s", error.strerror)
        raise InternalError from None


def pack_pipe() -> tuple[int, int]:
    """Return the read end and the write end of a pipe as large as the kernel grants."""
    read_end, write_end = os.pipe()
    with suppress(OSError):
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return read_end, write_end


def _interpreter() -> str:
    """Return the Python that runs this; embedding servers put themselves, or nothing, into ``sys.executable``."""
    if os.path.basename(sys.executable).startswith("python"):
        return sys.executable
    return os.path.join(sys.exec_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}")


def _libraries() -> list[str]:
    """Return the folder of the library that the build child imports: no child finds it by itself."""
    dulwich = find_spec("dulwich")
    return [str(Path(dulwich.origin).parent.parent)] if dulwich and dulwich.origin else []
