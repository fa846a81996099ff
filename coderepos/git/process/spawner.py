"""The host's side of the process that forks the children (:mod:`coderepos.git.process.forkserver`).

Each process that clones or probes has one fork server. It is started with the first request, by ``python -I -S`` with
an empty environment and ``/`` as working directory, ends with its host or after some idle minutes or some hours, and
is started again where it has ended. Without ``site`` no ``.pth`` file is run, and the standard library comes before
what is installed beside this package: other code would run before a child is confined.
"""

from __future__ import annotations

import _socket
import atexit
import errno
import fcntl
import os
import posix
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final, TypeVar

import coderepos
from coderepos.git.process.forkserver import CONTROL_FD

ROOT: Final = str(Path(coderepos.__file__).resolve().parent.parent)
"""Directory that holds the package, so that the children run the code that started them."""

IDLE_SECONDS: Final = 300.0
"""How long a fork server without a child waits for a request before it ends."""

AGE_SECONDS: Final = 6 * 3_600.0
"""How long a fork server takes requests: all its children have one layout of memory and one seed of hashes."""

LOWEST_FD: Final = 10
"""Descriptors below are those of the new process, which must not be overwritten before they are copied."""

_PRELOADED: Final = "coderepos.git.preload"

_Result = TypeVar("_Result")

_CODE: Final = """\
import sys
host_pid, idle_seconds, age_seconds, preloaded, root, *libraries = sys.argv[1:]
sys.path += dict.fromkeys((root, *libraries))
from coderepos.git.process.forkserver import serve
serve(int(host_pid), preloaded, idle_seconds=float(idle_seconds), age_seconds=float(age_seconds))
"""


class Spawner:
    """A fork server that this process has started.

    :raises OSError: it cannot be started; nothing is left open.
    """

    def __init__(self) -> None:
        self.started_at: Final = time.monotonic()
        self.identity: Final = _identity()
        control, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        try:
            # Hosts may have set a time for which new sockets wait.
            control.setblocking(False)  # noqa: FBT003 (positional only)
            self.pid: Final = _started(theirs.fileno())
        except BaseException:
            control.close()
            raise
        finally:
            theirs.close()
        self.control: Final = control
        self.exit_status: int | None = None
        """How it ended, as far as that is known."""

    def send(self, module: str, descriptors: Sequence[int]) -> None:
        """Ask for a child.

        :raises BlockingIOError: too many requests wait.
        :raises ConnectionError: it has ended, or takes no more requests.
        """
        passed = b"".join(descriptor.to_bytes(4, sys.byteorder) for descriptor in descriptors)
        flags = _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL
        try:
            self.control.sendmsg([module.encode()], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, passed)], flags)
        except OSError as error:
            # As many descriptors are on their way as this user may have open.
            if error.errno == errno.ETOOMANYREFS:
                raise BlockingIOError from None
            raise

    def has_ended(self) -> bool:
        """Return whether it is no longer at work."""
        try:
            ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return True
        if ended:
            self.exit_status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        return ended is not None

    def is_reaped(self) -> bool:
        """Reap it if it has ended; return whether it is gone."""
        if not self.has_ended():
            return False
        # The host may ignore SIGCHLD or wait for any child.
        with suppress(ChildProcessError):
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG)
        return True

    def kill(self) -> None:
        """Kill it, and with it all its children."""
        # Where the host reaped it, its id may be a stranger's by now.
        with suppress(ChildProcessError):
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            os.kill(self.pid, signal.SIGKILL)


class _Registry:
    """What this process knows of its fork servers; another process, such as a fork of it, knows nothing."""

    def __init__(self) -> None:
        self.turn: Final[dict[None, object]] = {}
        """Whose turn it is, under the only key: see :func:`_in_turn`."""
        self.spawner: Spawner | None = None
        self.dismissed: list[Spawner] = []

    def dismiss(self) -> None:
        """Close the control socket of the fork server, which ends by that."""
        # Forgotten first: one whose control socket is closed must never be asked.
        dismissed, self.spawner = self.spawner, None
        if dismissed:
            self.dismissed.append(dismissed)
        self.reap()

    def reap(self) -> None:
        """Close the control sockets of the dismissed ones, and reap those that have ended."""
        for one in self.dismissed:
            one.control.close()
        self.dismissed = [one for one in self.dismissed if not one.is_reaped()]


_registry = _Registry()


def submit(module: str, descriptors: Sequence[int]) -> Spawner | None:
    """Ask the fork server for a child, and return the server; start one where none is.

    Call it in :func:`~coderepos.git.process.signal_mask.signals_blocked`.

    :param module: dotted name of the module whose ``main(pack_fd)`` the child runs.
    :param descriptors: standard input, standard output, pack pipe and reply socket; the caller's copies stay open.
    :return: ``None`` where it takes no request right now: ask again a moment later.
    :raises OSError: no server can be started.
    """
    return _in_turn(lambda registry: _submit(registry, module, descriptors), otherwise=None)


def replace(spawner: Spawner | None, *, older_than: float) -> None:
    """Kill a fork server that does not answer; the next request starts another one.

    Call it in :func:`~coderepos.git.process.signal_mask.signals_blocked`.

    :param spawner: ``None`` for the present one.
    :param older_than: by :func:`time.monotonic`; one that was started later stays.
    """
    _in_turn(lambda registry: _replace(registry, spawner or registry.spawner, older_than), otherwise=None)


def reap() -> bool:
    """Reap the fork servers that have ended, and return whether none is left but one that serves.

    Call it in :func:`~coderepos.git.process.signal_mask.signals_blocked`.
    """
    return _in_turn(_reap, otherwise=False)


def _in_turn(act: Callable[[_Registry], _Result], *, otherwise: _Result) -> _Result:
    """Return what ``act`` returns while other threads are kept out, or ``otherwise`` where one of them was first.

    A lock of gevent's may let another green thread run; this never waits. A turn that was never given back would be the
    end of all children of this process, and an exception may be raised at any call: by a handler in the main thread
    whose signal came to another thread, or by a queue that interrupts threads. So nothing is called to give it back.
    """
    registry, me = _registry, object()
    turn = registry.turn
    try:
        if turn.setdefault(None, me) is not me:
            return otherwise
        return act(registry)
    finally:
        try:
            if turn[None] is me:
                del turn[None]
        except KeyError:
            pass


def _submit(registry: _Registry, module: str, descriptors: Sequence[int]) -> Spawner | None:
    for is_second_try in (False, True):
        spawner = registry.spawner
        if is_second_try or spawner is None or spawner.identity != _identity():
            registry.dismiss()
            spawner = registry.spawner = Spawner()
        try:
            spawner.send(module, descriptors)
        except BlockingIOError:
            return None
        except ConnectionError:
            # It was idle for long, or killed. Nothing of the request was taken.
            if is_second_try:
                raise
        else:
            return spawner
    return None


def _replace(registry: _Registry, spawner: Spawner | None, older_than: float) -> None:
    if spawner and spawner.started_at <= older_than and spawner.identity[0] == os.getpid():
        spawner.kill()
        if spawner is registry.spawner:
            registry.dismiss()


def _reap(registry: _Registry) -> bool:
    if registry.spawner and registry.spawner.has_ended():
        registry.dismiss()
    else:
        registry.reap()
    return not registry.dismissed


def _identity() -> tuple[object, ...]:
    """Return what a fork server shares with its host: children must not have rights that the host gave up."""
    return os.getpid(), os.getresuid(), os.getresgid(), os.getgroups()


def _started(control_fd: int) -> int:
    """Start a fork server and return its process id."""
    command = [_interpreter(), "-I", "-S", "-c", _CODE]
    command += [str(os.getpid()), str(IDLE_SECONDS), str(AGE_SECONDS), _PRELOADED, ROOT, *_libraries()]
    copy = fcntl.fcntl(control_fd, fcntl.F_DUPFD_CLOEXEC, LOWEST_FD)
    try:
        return posix.posix_spawn(
            command[0],
            command,
            {},
            file_actions=[
                (posix.POSIX_SPAWN_DUP2, copy, CONTROL_FD),
                *((posix.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)),
            ],
            setsid=True,
            setsigmask=(),
            # Hosts ignore these, and nobody could tell how a process ended that was forked.
            setsigdef=(signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ),
        )
    finally:
        os.close(copy)


def _interpreter() -> str:
    """Return the Python that runs this; embedding servers put themselves, or nothing, into ``sys.executable``."""
    if sys.executable and os.path.basename(sys.executable).startswith("python"):
        return sys.executable
    return os.path.join(sys.exec_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}")


def _libraries() -> list[str]:
    """Return the directory of the library that the children import: they do not find it by themselves."""
    dulwich = find_spec("dulwich")
    return [str(Path(dulwich.origin).parent.parent)] if dulwich and dulwich.origin else []


def _reset_after_fork() -> None:
    """Leave the fork server to the process that this one was forked from."""
    global _registry
    before, _registry = _registry, _Registry()
    if before.spawner:
        before.spawner.control.close()


def _close_at_exit() -> None:
    _registry.dismiss()


os.register_at_fork(after_in_child=_reset_after_fork)
atexit.register(_close_at_exit)
