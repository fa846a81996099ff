"""Reading a clone: where it is, and that somebody uses it, which keeps it from being removed to make room."""

from __future__ import annotations

import threading
import time
import uuid
from collections import OrderedDict
from datetime import timedelta
from pathlib import Path
from typing import Final

from django.db import connections, transaction
from django.db.models import Q
from django.db.models.functions import Now

from coderepos.exceptions import InvalidState, NotFound
from coderepos.models import CloneStatus, CodeRepository, alias
from coderepos.models.locking import row_transaction
from coderepos.services.afterwards import failures_logged

RECORD_SECONDS: Final = 3600
"""How old a recorded use has to be until another one is recorded."""

REMEMBER_SECONDS: Final = 600
"""How long a process does not even ask whether a use has to be recorded."""

IN_USE_SECONDS: Final = 5400
"""How long after its last recorded use a clone is never removed by itself: longer than both together, so that whoever
opened it can read for a quarter of an hour at least."""

_REMEMBERED: Final = 10_000
"""Most repositories that a process remembers; the one recorded longest ago is forgotten first."""


class _Recorded:
    """The repositories whose use this process recorded lately."""

    def __init__(self) -> None:
        self._times: Final[OrderedDict[uuid.UUID, float]] = OrderedDict()
        self._lock: Final = threading.Lock()

    def has(self, repository_id: uuid.UUID) -> bool:
        with self._lock:
            return time.monotonic() - self._times.get(repository_id, float("-inf")) < REMEMBER_SECONDS

    def add(self, repository_id: uuid.UUID) -> None:
        with self._lock:
            self._times[repository_id] = time.monotonic()
            self._times.move_to_end(repository_id)
            if len(self._times) > _REMEMBERED:
                self._times.popitem(last=False)


_recorded: Final = _Recorded()


def open_clone(repository: CodeRepository) -> Path:
    """Return the path of the working tree of a COMPLETED repository, and record that it is used.

    The rules of the site remove no clone that was opened within the last quarter of an hour; who reads for longer opens
    it again. Inside a transaction the use is recorded once that commits. The role of no user is checked.

    :returns: a path on the machine that ``repository.node`` names; the latest version is always there.
    :raises NotFound: it was deleted.
    :raises InvalidState: there is no clone to read.
    """
    if not _recorded.has(repository.pk):
        _record(repository.pk)
    found = CodeRepository.objects.filter(pk=repository.pk).values_list("clone_status", "sandbox_path").first()
    if found is None:
        raise NotFound
    status, path = found
    if status != CloneStatus.COMPLETED or path is None:
        raise InvalidState(f"There is no clone to read: the repository is {status}.")
    return Path(path)


def _record(repository_id: uuid.UUID) -> None:
    """Record the use now; inside a transaction of the caller's, whose lock others would wait for, once it commits."""

    def write() -> None:
        unrecorded = Q(last_used_at=None) | Q(last_used_at__lt=Now() - timedelta(seconds=RECORD_SECONDS))
        rows = CodeRepository.objects.filter(unrecorded, pk=repository_id, clone_status=CloneStatus.COMPLETED)
        with failures_logged("repository %s: its use can't be recorded", repository_id):
            with row_transaction(alias()):
                rows.update(last_used_at=Now())
            _recorded.add(repository_id)

    if connections[alias()].in_atomic_block:
        transaction.on_commit(write, using=alias(), robust=True)
    else:
        write()
