"""Removing clones when they expire by the rules of their projects, and to make room on the disk of this machine.

To make room, what is in the storage for packs goes from the disk alone, whatever the rules are: the disk is a cache of
it. Everything else goes as the rules let it, and is cleaned as by request. Each goes by a conditional UPDATE of its
row, so that rounds may be cut off anywhere and overlap.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.functions import Now

from coderepos.conf import AppSettings, conf, imported
from coderepos.exceptions import CloneEvicted, CloneExpired, CodeReposError, RequestError
from coderepos.models import CloneStatus, CodeRepository, Job, PackState, Purge, StoredPack, alias, all_projects
from coderepos.models.disk import Room, leaving_bytes, waiting_for_disk
from coderepos.models.error_columns import error_columns
from coderepos.models.locking import RowHeld, row_transaction
from coderepos.retention import Retention
from coderepos.services.disk.publication import size_bytes_of
from coderepos.services.repositories.cleaning import start_cleaning
from coderepos.services.repositories.reading import IN_USE_SECONDS

EXPIRED: Final = 500
"""Most clones of one project that one round removes because they expired."""

PROJECTS: Final = 500
"""Most projects in one query."""

WAITING: Final = 20
"""Most waiting jobs for which one round makes room."""

HEADROOM: Final = 0.05
"""Share of the budget that is made free beyond what is missing, where the budget or the floor is passed."""

DAY_SECONDS: Final = 24 * 3600

logger = logging.getLogger(__name__)


def remove_expired(names: Sequence[str]) -> int:
    """Remove clones on the machine with these names, or on no disk, that expired by their rules; return how many."""
    if _keeps_all():
        return 0
    names = [*names, ""]
    return sum(_remove_expired_of(project, names) for project in _projects(names))


def make_room(names: Sequence[str], room: Room) -> int:
    """Remove clones that may go until what is missing is there, and return how many.

    Those that are stored go first, and of each kind the one used longest ago.

    :param room: of the machine with these names.
    """
    if _keeps_all() and not conf.PACK_STORAGE:
        return 0
    leaving = leaving_bytes(names)
    waiting = waiting_for_disk().filter(node__in=names).values_list("needed_bytes", flat=True)[:WAITING]
    needed_bytes = [needed or 0 for needed in waiting]
    missing_bytes = _missing_bytes(needed_bytes, room) - leaving
    if missing_bytes <= 0:
        return 0
    evictable = _evictable(names, at_least_bytes=missing_bytes)
    evictable_bytes = sum(one.size_bytes for one in evictable)
    if evictable_bytes < missing_bytes:
        logger.warning("The disk lacks %d MB for which no clone may go", (missing_bytes - evictable_bytes) // 10**6)
        # One that would not fit if all of them went, and nothing ran, costs nobody a clone.
        most_bytes = room.idle_bytes + leaving + evictable_bytes
        missing_bytes = _missing_bytes([needed for needed in needed_bytes if needed <= most_bytes], room) - leaving
    removed = 0
    for one in evictable:
        if missing_bytes <= 0:
            break
        if one.remove(one.pk):
            missing_bytes -= one.size_bytes
            removed += 1
    return removed


def _missing_bytes(needed_bytes: Sequence[int], room: Room) -> int:
    """Return what has to go from the disk for those who wait, where nothing is going already."""
    missing_bytes = sum(needed_bytes) - room.bytes
    return missing_bytes + int((room.budget_bytes or 0) * HEADROOM) if room.bytes < 0 else missing_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class _Evictable:
    """A clone that may go."""

    pk: Any
    size_bytes: int
    remove: Callable[[Any], bool]


def _evictable(names: Sequence[str], *, at_least_bytes: int) -> list[_Evictable]:
    """Return clones that may go to make room, the first to go first, as many as are missing."""
    found, found_bytes = list[_Evictable](), 0
    for one in (*_stored_evictable(names), *_evictable_by_rules(names)):
        if found_bytes >= at_least_bytes:
            break
        found.append(one)
        found_bytes += one.size_bytes
    return found


def _stored_evictable(names: Sequence[str]) -> Iterator[_Evictable]:
    if conf.PACK_STORAGE:
        for pk, _, size_bytes in _longest_unused(_idle(names, IN_USE_SECONDS).filter(_is_stored())):
            yield _Evictable(pk=pk, size_bytes=size_bytes, remove=_leave_disk)


def _evictable_by_rules(names: Sequence[str]) -> Iterator[_Evictable]:
    if _keeps_all():
        return
    rows, protected = _idle(names, IN_USE_SECONDS), _Protected()
    for pk, project_id, size_bytes in _longest_unused(rows.exclude(_is_stored()) if conf.PACK_STORAGE else rows):
        if not protected.covers(pk, project_id):
            yield _Evictable(pk=pk, size_bytes=size_bytes, remove=_evict)


def _longest_unused(rows: QuerySet[CodeRepository]) -> Iterator[tuple[Any, Any, int]]:
    """Yield key, project and size of each, the one used longest ago first."""
    # Read at once: SQLite does not write while it reads. Few columns of what one machine holds.
    for pk, project_id, size_mb in list(
        rows.order_by("last_used_at").values_list("pk", "project_id", "repository_size_mb")
    ):
        yield pk, project_id, int((size_mb or 0) * 10**6)


def _is_stored() -> Exists:
    return Exists(StoredPack.objects.filter(pk=OuterRef("stored_pack"), state=PackState.STORED))


def _remove_expired_of(project: Any, names: Sequence[str]) -> int:
    rules = rules_of(project)
    if not rules.expires:
        return 0
    idle_seconds = max(IN_USE_SECONDS, (rules.unused_days or 0) * DAY_SECONDS)
    expired = _idle(names, idle_seconds).filter(project=project).exclude(pk__in=_newest(project, rules))
    keys = list(expired.order_by("last_used_at").values_list("pk", flat=True)[:EXPIRED])
    return sum(_remove(pk, CloneExpired(), idle_seconds=idle_seconds) for pk in keys)


def _projects(names: Sequence[str]) -> Iterator[Any]:
    """Yield the projects that have clones on the machines with these names."""
    clones = CodeRepository.objects.filter(node__in=names, clone_status=CloneStatus.COMPLETED)
    keys = list(clones.order_by().values_list("project_id", flat=True).distinct())
    for start in range(0, len(keys), PROJECTS):
        yield from list(all_projects().filter(pk__in=keys[start : start + PROJECTS]))


def _idle(names: Sequence[str], idle_seconds: float) -> QuerySet[CodeRepository]:
    """Return the clones on the machine with these names that nobody used for so long, and that no job is about."""
    rows = CodeRepository.objects.without_token().filter(~_has_job(), _unused_for(idle_seconds))
    return rows.filter(node__in=names, clone_status=CloneStatus.COMPLETED)


def _has_job() -> Exists:
    return Exists(Job.objects.unfinished().filter(repository_id=OuterRef("pk")))


def _unused_for(seconds: float) -> Q:
    """Return what is true of clones that nobody used for so long; one that was just published is for its reader.

    A worker that was older than the column may have published one without a last use.
    """
    since, published_before = (Now() - timedelta(seconds=each) for each in (seconds, IN_USE_SECONDS))
    unused = Q(last_used_at__lt=since) | Q(last_used_at=None, cloned_at__lt=since)
    return unused & Q(cloned_at__lt=published_before)


def _newest(project: Any, rules: Retention) -> list[Any]:
    """Return the keys of the clones of a project that no rule removes, wherever they are."""
    clones = CodeRepository.objects.filter(project=project, clone_status=CloneStatus.COMPLETED)
    return list(clones.order_by("-cloned_at", "pk").values_list("pk", flat=True)[: rules.keep_newest or 0])


class _Protected:
    """Which clones must not go to make room; each project is asked once."""

    def __init__(self) -> None:
        self._kept: Final[dict[Any, frozenset[Any] | None]] = {}

    def covers(self, pk: Any, project_id: Any) -> bool:
        if project_id not in self._kept:
            project = all_projects().filter(pk=project_id).first()
            rules = Retention() if project is None else rules_of(project)
            self._kept[project_id] = frozenset(_newest(project, rules)) if rules.evictable else None
        kept = self._kept[project_id]
        return kept is None or pk in kept


def rules_of(project: Any) -> Retention:
    """Return the rules for a project; a function of the host that fails keeps everything."""
    try:
        rules = imported("RETENTION")(project)
    except Exception:
        logger.exception("%s fails for project %s, whose clones are all kept", conf.RETENTION, project.pk)
        return Retention()
    if not isinstance(rules, Retention):
        logger.error("%s returned %r for project %s, whose clones are all kept", conf.RETENTION, rules, project.pk)
        return Retention()
    return rules


def _keeps_all() -> bool:
    """Return whether there are no rules that would let any clone go, so that nobody has to be asked."""
    return conf.RETENTION == AppSettings.RETENTION


def _leave_disk(pk: Any) -> bool:
    """Have a clone removed from its disk that is still idle and stored, and return whether it goes.

    Its repository stays COMPLETED, and what is stored of it stays too.
    """
    row = CodeRepository.objects.without_token().filter(pk=pk)
    idle = row.filter(_unused_for(IN_USE_SECONDS), clone_status=CloneStatus.COMPLETED)
    try:
        with row_transaction(alias(), read_committed=True):
            # Locks the row, which whoever opens the clone, queues a job or drops what is stored does first.
            if not idle.update(clone_status=CloneStatus.COMPLETED):
                return False
            repository = row.filter(_is_stored(), ~_has_job()).exclude(node="").first()
            if repository is None or not repository.leave_disk():
                return False
            Purge.objects.request(
                pk,
                project_key=str(repository.project_id),
                nodes=[repository.node],
                surplus_bytes={repository.node: size_bytes_of(repository)},
            )
    except RowHeld as error:
        logger.info("repository %s: its clone stays on the disk for now: %s", pk, error)
        return False
    logger.info("repository %s: its clone leaves the disk of %s; it is stored", pk, repository.node)
    return True


def _evict(pk: Any) -> bool:
    return _remove(pk, CloneEvicted(), idle_seconds=IN_USE_SECONDS)


def _remove(pk: Any, reason: CodeReposError, *, idle_seconds: float) -> bool:
    """Start to clean a repository that is still idle, and return whether its clone will go."""
    row = CodeRepository.objects.filter(pk=pk)
    idle = row.filter(_unused_for(idle_seconds), clone_status=CloneStatus.COMPLETED)
    try:
        with row_transaction(alias()):
            # Locks the row: whoever opens the clone from here on finds none.
            if not idle.update(clone_status=CloneStatus.COMPLETED):
                return False
            start_cleaning(row.without_token().get(), details={"reason": reason.code})
            row.update(**error_columns(reason))
    except (RequestError, RowHeld) as error:
        logger.info("repository %s: its clone stays for now: %s", pk, error)
        return False
    logger.info("repository %s: its clone goes: %s", pk, reason.code)
    return True
