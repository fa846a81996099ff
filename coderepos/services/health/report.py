"""The whole report, for operators: every check in a bounded time, whatever hangs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from django.db import connections

from coderepos.crypto.redaction import safe_remote_text
from coderepos.services.health.database import database_findings
from coderepos.services.health.finding import Finding, failing
from coderepos.services.health.machine import disk_findings, key_findings, queue_findings, root_findings
from coderepos.services.health.storage import storage_findings

DEADLINE_SECONDS: Final = 4.0
"""How long all checks together may take; those without an answer by then are failing."""

Check = Callable[[], Iterator[Finding]]

CHECKS: Final[Mapping[str, Check]] = {
    "database": database_findings,
    "queue": queue_findings,
    "key": key_findings,
    "sandbox_root": root_findings,
    "disk": disk_findings,
    "storage": storage_findings,
}
"""What may hang by itself, each in a thread of its own."""

logger = logging.getLogger(__name__)


def examine(*, checks: Mapping[str, Check] = CHECKS, deadline_seconds: float = DEADLINE_SECONDS) -> list[Finding]:
    """Return what every check found, within ``deadline_seconds``.

    Threads that hang are left behind; whoever has to end then ends by :func:`os._exit`.
    """
    deadline = time.monotonic() + deadline_seconds
    runs = [_Run(name, check) for name, check in checks.items()]
    for run in runs:
        run.join(deadline)
    return [finding for run in runs for finding in run.findings(deadline_seconds)]


class _Run:
    """One check in a daemon thread; what it found before it hangs counts."""

    def __init__(self, name: str, check: Check) -> None:
        self._name: Final = name
        self._check: Final = check
        self._found: Final[list[Finding]] = []
        self._thread = threading.Thread(target=self._run, name=f"coderepos-health-{name}", daemon=True)
        self._thread.start()

    def join(self, deadline: float) -> None:
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def findings(self, waited_seconds: float) -> list[Finding]:
        hangs = self._thread.is_alive()
        found = [*self._found]
        return [*found, failing(self._name, f"no answer within {waited_seconds:g} s")] if hangs else found

    def _run(self) -> None:
        try:
            for finding in self._check():
                self._found.append(finding)
        except Exception as error:
            logger.debug("check %s", self._name, exc_info=True)
            text = safe_remote_text(str(error)) or "no details"
            self._found.append(failing(self._name, f"{type(error).__name__}: {text}"))
        finally:
            connections.close_all()
