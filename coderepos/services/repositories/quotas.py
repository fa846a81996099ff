"""What a project and a user may use, as ``LIMITS`` says, and whether they would pass it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from django.db.models import Case, F, QuerySet, Sum, When
from django.db.models.functions import Coalesce, Greatest

from coderepos.conf import ConfigurationError, conf, imported
from coderepos.exceptions import JOBS_SECONDS, NotFound, StorageQuotaExceeded, TooManyJobs, TooManyRepositories
from coderepos.limits import Limits, Quota
from coderepos.models import CloneStatus, CodeRepository, Job, all_projects
from coderepos.models.locking import busy_reported, lock_names

BYTES_PER_MB: Final = 10**6


@dataclass(frozen=True, kw_only=True, slots=True)
class Allowance:
    """The limits of a project and of the user who asks.

    Each check is made twice: before the Git host is asked, and after :meth:`lock` in the transaction that stores what
    was asked for, where no second call can pass it at the same time.
    """

    limits: Limits
    project_id: Any
    user_id: Any

    def lock(self) -> None:
        """Keep other calls of the project and the user out of the checks until the end of the transaction.

        :raises DatabaseBusy: another one, of whichever repository, takes too long.
        """
        with busy_reported():
            lock_names(f"coderepos quota {scope} {key}" for scope, key, quota in self._scopes() if quota != Quota())

    def check_repositories(self, *, new: int, new_bytes: int = 0) -> None:
        """Refuse ``new`` further repositories of ``new_bytes``, or those that are stored if that is 0.

        :raises TooManyRepositories: there would be too many.
        :raises StorageQuotaExceeded: they would take too much room.
        """
        for scope, rows, quota in self._rows():
            if quota.repositories is not None and (figure := rows.count() + new) > quota.repositories:
                raise TooManyRepositories(scope=scope, figure=figure, limit=quota.repositories)
        self.check_size(new_bytes=new_bytes)

    def check_size(self, *, new_bytes: int = 0) -> None:
        """Refuse ``new_bytes`` beside what is stored; what was cleaned does not count until it is cloned again.

        :raises StorageQuotaExceeded: all would take too much room.
        """
        for scope, rows, quota in self._rows():
            if quota.size_bytes is not None and (figure := size_bytes_of(rows) + new_bytes) > quota.size_bytes:
                raise StorageQuotaExceeded(scope=scope, figure=figure, limit=quota.size_bytes)

    def check_growth(self, repository: CodeRepository, *, new_bytes: int) -> None:
        """Refuse a repository that would take ``new_bytes`` from now on; one that takes less than before may.

        :raises StorageQuotaExceeded: with it, all would take too much room.
        """
        for scope, rows, quota in self._rows():
            mine = rows.filter(pk=repository.pk)
            if quota.size_bytes is None or not mine.exists():
                continue
            growth_bytes = new_bytes - size_bytes_of(mine)
            if growth_bytes > 0 and (figure := size_bytes_of(rows) + growth_bytes) > quota.size_bytes:
                raise StorageQuotaExceeded(scope=scope, figure=figure, limit=quota.size_bytes)

    def check_jobs(self, *, new: int) -> None:
        """Refuse ``new`` further jobs, or those that are stored if that is 0.

        :raises TooManyJobs: too many would wait or run.
        """
        for scope, rows, quota in self._rows():
            if quota.unfinished_jobs is None:
                continue
            figure = Job.objects.unfinished().filter(repository__in=rows).count() + new
            if figure > quota.unfinished_jobs:
                raise TooManyJobs(
                    scope=scope, figure=figure, limit=quota.unfinished_jobs, retry_after_seconds=JOBS_SECONDS
                )

    def _scopes(self) -> Iterator[tuple[str, Any, Quota]]:
        yield "project", self.project_id, self.limits.project
        yield "user", self.user_id, self.limits.user

    def _rows(self) -> Iterator[tuple[str, QuerySet[CodeRepository], Quota]]:
        yield "project", CodeRepository.objects.filter(project_id=self.project_id), self.limits.project
        yield "user", CodeRepository.objects.filter(connected_by_id=self.user_id), self.limits.user


def allowance_of(project: Any, user: Any) -> Allowance:
    """Return what a project, and the user who asks, may use; not to be called inside of a transaction of ours.

    :raises ConfigurationError: what ``LIMITS`` names does not return limits.
    """
    limits = imported("LIMITS")(project, user)
    if not isinstance(limits, Limits):
        raise ConfigurationError(f"{conf.LIMITS} must return coderepos.limits.Limits.")
    return Allowance(limits=limits, project_id=project.pk, user_id=user.pk)


def allowance_of_repository(repository: CodeRepository, user: Any) -> Allowance:
    """Return what the project of a repository, and the user who asks, may use, as :func:`allowance_of` does.

    :raises NotFound: the project was deleted.
    """
    # Not `repository.project`, which routers may read from a replica that lags behind.
    project = all_projects().filter(pk=repository.project_id).first()
    if project is None:
        raise NotFound
    return allowance_of(project, user)


def size_bytes_of(repositories: QuerySet[CodeRepository]) -> int:
    """Return what repositories count: what is published, or what is estimated of a clone that is still to come."""
    published_mb = Coalesce("repository_size_mb", "estimated_size_mb")
    # One that was changed takes room for both: whether there will be another clone nobody knows.
    changed_mb = Greatest(published_mb, Coalesce("estimated_size_mb", "repository_size_mb"))
    size_mb = repositories.exclude(clone_status=CloneStatus.CLEANED).aggregate(
        mb=Sum(Case(When(estimated_at__gt=F("cloned_at"), then=changed_mb), default=published_mb))
    )["mb"]
    return round((size_mb or 0) * BYTES_PER_MB)
