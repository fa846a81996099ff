"""Reading a clone: where it is, and that somebody uses it, which keeps it from being removed to make room.

The disk is a cache of what is in the storage for packs. Who wants to read a clone that is on no disk has it restored.
"""

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

from coderepos.conf import conf
from coderepos.exceptions import InvalidState, NotFound, NotOnDisk
from coderepos.models import CloneStatus, CodeRepository, Job, alias
from coderepos.models.locking import row_transaction
from coderepos.services.afterwards import failures_logged
from coderepos.services.packs.recalling import recall
from coderepos.services.repositories.arguments import refuse_transaction

RECORD_SECONDS: Final = 3600
"""How old a recorded use has to be until another one is recorded."""

REMEMBER_SECONDS: Final = 600
"""How long a process does not even ask whether a use has to be recorded."""

IN_USE_SECONDS: Final = 5400
"""How long after its last recorded use a clone is never removed by itself: longer than both together, so that whoever
opened it can read for a quarter of an hour at least."""

AGAIN_SECONDS: Final = 5
"""How long whoever finds a clone on no disk is asked to wait."""

POLL_SECONDS: Final = 0.2
"""Time between two looks for a clone that somebody waits for."""

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


def open_clone(repository: CodeRepository, *, wait_seconds: float = 0) -> Path:
    """Return the path of the working tree of a COMPLETED repository, and record that it is used.

    No clone that was opened within the last quarter of an hour is removed by itself; who reads for longer opens it
    again. One that is on no disk, since what is stored of it is all that is kept, is restored by a worker. Inside a
    transaction the use is recorded, and the restore queued, once that commits. The role of no user is checked.

    :param wait_seconds: how long to wait for a clone that is being restored or made; not inside of a transaction.
    :returns: a path on the machine that ``repository.node`` names; the latest version is always there.
    :raises NotFound: it was deleted.
    :raises NotOnDisk: it is being restored, or it is on the disk of another machine.
    :raises InvalidState: there is no clone to read.
    :raises RuntimeError: a transaction is open in which nothing is to be waited for.
    """
    if wait_seconds > 0:
        refuse_transaction("open_clone(wait_seconds=…)", does="waits for a worker")
    if not _recorded.has(repository.pk):
        _record(repository.pk)
    try:
        return _path_of(repository.pk)
    except NotOnDisk as error:
        if "node" not in error.fields:
            recall(repository.pk)
        if wait_seconds <= 0:
            raise
    except InvalidState:
        if wait_seconds <= 0:
            raise
    return _awaited(repository.pk, wait_seconds)


def _awaited(repository_id: uuid.UUID, wait_seconds: float) -> Path:
    """Return the path as soon as it is there; the error that says why it is not, where nothing makes it or time is up.

    :raises CodeReposError: as :func:`open_clone`.
    """
    ends_at = time.monotonic() + wait_seconds
    while True:
        # In this order: what a job that ends in between has made is seen.
        is_under_way = Job.objects.unfinished().filter(repository_id=repository_id).exists()
        try:
            return _path_of(repository_id)
        except (NotOnDisk, InvalidState):
            left_seconds = ends_at - time.monotonic()
            if left_seconds <= 0 or not is_under_way:
                raise
        time.sleep(min(POLL_SECONDS, left_seconds))


def _path_of(repository_id: uuid.UUID) -> Path:
    """Return where the clone is on this machine.

    :raises CodeReposError: as :func:`open_clone`.
    """
    rows = CodeRepository.objects.filter(pk=repository_id)
    found = rows.only("clone_status", "sandbox_path", "stored_pack", "node", "version").first()
    if found is None:
        raise NotFound
    if found.is_stored_only:
        raise NotOnDisk(retry_after_seconds=AGAIN_SECONDS)
    if found.clone_status != CloneStatus.COMPLETED or found.sandbox_path is None:
        raise InvalidState(f"There is no clone to read: the repository is {found.clone_status}.")
    path = Path(found.sandbox_path)
    # Containers of one machine have names of their own, and may share its disk.
    if found.node not in ("", conf.node_id) and path.resolve().parent.name != found.version:
        raise NotOnDisk(
            f"The clone is on the disk of the machine {found.node}, and can be read there.", node=found.node
        )
    return path


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
