"""Removing clones by the rules of their projects: when they expire, and to make room on the disk of this machine.

Each is cleaned as by request, by a conditional UPDATE of its row, so that rounds may be cut off anywhere and overlap.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, Final

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.functions import Now
from django.utils.module_loading import import_string

from coderepos.conf import AppSettings, conf
from coderepos.exceptions import CloneEvicted, CloneExpired, CodeReposError, RequestError
from coderepos.models import CloneStatus, CodeRepository, Job, alias, all_projects
from coderepos.models.disk import Room, leaving_bytes, waiting_for_disk
from coderepos.models.error_columns import error_columns
from coderepos.models.locking import RowHeld, row_transaction
from coderepos.retention import Retention
from coderepos.services.cleaning import start_cleaning
from coderepos.services.reading import IN_USE_SECONDS

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
    """Remove the clones on the machine with these names that expired by their rules; return how many."""
    if _nothing_goes():
        return 0
    return sum(_remove_expired_of(project, names) for project in _projects(names))


def make_room(names: Sequence[str], room: Room) -> int:
    """Remove clones that may go, the one used longest ago first, until what is missing is there; return how many.

    :param room: of the machine with these names.
    """
    if _nothing_goes():
        return 0
    leaving = leaving_bytes(names)
    waiting = waiting_for_disk().filter(node__in=names).values_list("needed_bytes", flat=True)[:WAITING]
    needed_bytes = [needed or 0 for needed in waiting]
    missing_bytes = _missing_bytes(needed_bytes, room) - leaving
    if missing_bytes <= 0:
        return 0
    evictable = _evictable(names, at_least_bytes=missing_bytes)
    evictable_bytes = sum(evictable.values())
    if evictable_bytes < missing_bytes:
        logger.warning("The disk lacks %d MB that no rule lets go", (missing_bytes - evictable_bytes) // 10**6)
        # One that would not fit if all of them went, and nothing ran, costs nobody a clone.
        most_bytes = room.idle_bytes + leaving + evictable_bytes
        missing_bytes = _missing_bytes([needed for needed in needed_bytes if needed <= most_bytes], room) - leaving
    removed = 0
    for pk, size_bytes in evictable.items():
        if missing_bytes <= 0:
            break
        if _remove(pk, CloneEvicted(), idle_seconds=IN_USE_SECONDS):
            missing_bytes -= size_bytes
            removed += 1
    return removed


def _missing_bytes(needed_bytes: Sequence[int], room: Room) -> int:
    """Return what has to go from the disk for those who wait, where nothing is going already."""
    missing_bytes = sum(needed_bytes) - room.bytes
    return missing_bytes + int((room.budget_bytes or 0) * HEADROOM) if room.bytes < 0 else missing_bytes


def _evictable(names: Sequence[str], *, at_least_bytes: int) -> dict[Any, int]:
    """Return the sizes of clones that may go to make room, the one used longest ago first, as many as are missing."""
    protected, found, found_bytes = _Protected(), dict[Any, int](), 0
    # Read at once: SQLite does not write while it reads. Few columns of what one machine holds.
    candidates = _idle(names, IN_USE_SECONDS).order_by("last_used_at")
    for pk, project_id, size_mb in list(candidates.values_list("pk", "project_id", "repository_size_mb")):
        if found_bytes >= at_least_bytes:
            break
        if not protected.covers(pk, project_id):
            found[pk] = int((size_mb or 0) * 10**6)
            found_bytes += found[pk]
    return found


def _remove_expired_of(project: Any, names: Sequence[str]) -> int:
    rules = rules_of(project)
    if not rules.expires:
        return 0
    idle_seconds = max(IN_USE_SECONDS, (rules.unused_days or 0) * DAY_SECONDS)
    expired = _idle(names, idle_seconds).filter(project=project).exclude(pk__in=_newest(project, rules))
    keys = list(expired.order_by("last_used_at").values_list("pk", flat=True)[:EXPIRED])
    return sum(_remove(pk, CloneExpired(), idle_seconds=idle_seconds) for pk in keys)


def _projects(names: Sequence[str]) -> Iterator[Any]:
    """Yield the projects that have clones on the machine with these names."""
    clones = CodeRepository.objects.filter(node__in=names, clone_status=CloneStatus.COMPLETED)
    keys = list(clones.order_by().values_list("project_id", flat=True).distinct())
    for start in range(0, len(keys), PROJECTS):
        yield from list(all_projects().filter(pk__in=keys[start : start + PROJECTS]))


def _idle(names: Sequence[str], idle_seconds: float) -> QuerySet[CodeRepository]:
    """Return the clones on the machine with these names that nobody used for so long, and that no job is about."""
    unfinished = Job.objects.unfinished().filter(repository_id=OuterRef("pk"))
    rows = CodeRepository.objects.without_token().filter(~Exists(unfinished), _unused_for(idle_seconds))
    return rows.filter(node__in=names, clone_status=CloneStatus.COMPLETED)


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
        rules = import_string(conf.RETENTION)(project)
    except Exception:
        logger.exception("%s fails for project %s, whose clones are all kept", conf.RETENTION, project.pk)
        return Retention()
    if not isinstance(rules, Retention):
        logger.error("%s returned %r for project %s, whose clones are all kept", conf.RETENTION, rules, project.pk)
        return Retention()
    return rules


def _nothing_goes() -> bool:
    """Return whether there are no rules that would let any clone go, so that nobody has to be asked."""
    return conf.RETENTION == AppSettings.RETENTION


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
