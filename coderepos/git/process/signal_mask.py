"""Lets signals wait while a process is started, asked for or given up.

Servers with green threads (gevent) replace what is in :mod:`subprocess`, :mod:`socket` and :mod:`threading`, and
``os.posix_spawn`` and ``time.sleep``, by functions that let another green thread run before they return. That must not
happen while signals are blocked: the other one would run with this one's mask, and put its own back too late. So
nothing that is called in :func:`signals_blocked` waits, logs, or is replaced by anybody: :mod:`posix` and ``_socket``
are used themselves.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# Plain numbers, as _signal has them: signal makes 64 members of an enumeration at each call, dozens of times a clone.
_SIGNALS: Final = frozenset(map(int, signal.valid_signals()))


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Let signals for this thread wait to the end of a ``with`` block, in which nothing may wait.

    A handler that raises, such as a queue's time-out, would otherwise separate a process from who has to end it.
    """
    before = _signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        # Runs the handlers of what came just before, with the signals blocked already: here one may raise.
        _signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        yield
    finally:
        _signal.pthread_sigmask(signal.SIG_SETMASK, before)
