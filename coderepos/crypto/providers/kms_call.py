"""Calls to a key management service: bounded in time, tried twice, their errors translated into ours."""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from coderepos.exceptions import CryptoError, EncryptionUnavailable, TokenUndecryptable

CONNECT_SECONDS: Final = 2
READ_SECONDS: Final = 3
TOTAL_SECONDS: Final = 8.0
"""Longest wait for both attempts together: an answer that drips never exceeds the limits of its single reads."""

PAUSE_SECONDS: Final = 0.2
ATTEMPTS: Final = 2

logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class ErrorClass(enum.Enum):
    """What an error of a client means."""

    TRANSIENT = enum.auto()
    """The same call may succeed a moment later."""

    UNAVAILABLE = enum.auto()
    """Somebody has to change something first: permissions, a disabled key, a wrong address."""

    REFUSED = enum.auto()
    """The service answered, and its key does not open what it was given."""


def call_kms(
    kid: str,
    operation: Callable[[], _Result],
    classify: Callable[[Exception], ErrorClass],
    *,
    opening: bool = False,
) -> _Result:
    """Return the result of ``operation``, which is called once more after a transient error.

    :param kid: name of the key, for the log.
    :param classify: returns what an error of the client means.
    :param opening: whether a stored message is being opened, so that a refusal concerns the message.
    :raises EncryptionUnavailable: there was no result in time, or an error that a repetition does not help.
    :raises TokenUndecryptable: ``opening``, and the key refused.
    """
    deadline = time.monotonic() + TOTAL_SECONDS
    failure: CryptoError = EncryptionUnavailable()
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_SECONDS)
        call = _BoundedCall(operation)
        if not call.ends_within(deadline - time.monotonic()):
            logger.error("key %s: no answer within %s seconds", kid, TOTAL_SECONDS)
            break
        if call.error is None:
            return call.results[0]
        error_class = classify(call.error)
        # The text of the error comes from the service and may quote the request: its type has to do.
        logger.error("key %s: %s, %s", kid, type(call.error).__name__, error_class.name.lower())
        if error_class is ErrorClass.REFUSED and opening:
            failure = TokenUndecryptable()
        if error_class is not ErrorClass.TRANSIENT:
            break
    raise failure


def expect(kid: str, condition: bool, fault: str, *, opening: bool = False) -> None:
    """Refuse an answer that is not what was asked for, such as that of another key.

    :raises EncryptionUnavailable: ``condition`` does not hold for something that was to be stored.
    :raises TokenUndecryptable: ``condition`` does not hold for something that was to be opened.
    """
    if not condition:
        logger.error("key %s: %s", kid, fault)
        raise TokenUndecryptable if opening else EncryptionUnavailable


class _BoundedCall(Generic[_Result]):
    """A call in a thread of its own, since no client bounds the time of a whole answer."""

    def __init__(self, operation: Callable[[], _Result]) -> None:
        self._operation = operation
        self.results: list[_Result] = []
        self.error: Exception | None = None

    def ends_within(self, seconds: float) -> bool:
        """Wait for the end; a thread that is late is left behind and ends with its client's own limits."""
        thread = threading.Thread(target=self._run, name="coderepos-kms", daemon=True)
        thread.start()
        thread.join(max(seconds, 0))
        return not thread.is_alive()

    def _run(self) -> None:
        try:
            self.results.append(self._operation())
        except Exception as error:
            self.error = error
