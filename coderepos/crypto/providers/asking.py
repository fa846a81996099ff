"""One question to a key management service: bounded in time, tried twice, its errors translated into ours."""

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
_Answer = TypeVar("_Answer")


class Verdict(enum.Enum):
    """What an error of a client means."""

    TRANSIENT = enum.auto()
    """The same question may be answered a moment later."""

    UNAVAILABLE = enum.auto()
    """Somebody has to change something first: rights, a disabled key, a wrong address."""

    REFUSED = enum.auto()
    """The key was asked, and does not open what it was given."""


Judge = Callable[[Exception], Verdict]


def ask(kid: str, question: Callable[[], _Answer], judge: Judge, *, opening: bool = False) -> _Answer:
    """Return the answer to ``question``, asked once more after a transient error.

    :param kid: name of the key, for the log.
    :param judge: tells what an error of the client means.
    :param opening: whether a stored message is opened, so that a refusal concerns the message.
    :raises EncryptionUnavailable: there was no answer in time, or none that helps.
    :raises TokenUndecryptable: ``opening``, and the key refused.
    """
    deadline = time.monotonic() + TOTAL_SECONDS
    failure: CryptoError = EncryptionUnavailable()
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_SECONDS)
        waiting = _Waiting(question)
        if not waiting.answered_within(deadline - time.monotonic()):
            logger.error("key %s: no answer within %s seconds", kid, TOTAL_SECONDS)
            break
        if waiting.error is None:
            return waiting.answers[0]
        verdict = judge(waiting.error)
        # The text of the error comes from the service and may quote the question: its type has to do.
        logger.error("key %s: %s, %s", kid, type(waiting.error).__name__, verdict.name.lower())
        if verdict is Verdict.REFUSED and opening:
            failure = TokenUndecryptable()
        if verdict is not Verdict.TRANSIENT:
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


class _Waiting(Generic[_Answer]):
    """A question in a thread of its own, since no client bounds the time of a whole answer."""

    def __init__(self, question: Callable[[], _Answer]) -> None:
        self._question = question
        self.answers: list[_Answer] = []
        self.error: Exception | None = None

    def answered_within(self, seconds: float) -> bool:
        """Wait for the answer; a thread that is late is left behind and ends with its client's own limits."""
        thread = threading.Thread(target=self._run, name="coderepos-kms", daemon=True)
        thread.start()
        thread.join(max(seconds, 0))
        return not thread.is_alive()

    def _run(self) -> None:
        try:
            self.answers.append(self._question())
        except Exception as error:
            self.error = error
