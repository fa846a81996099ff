"""The states of a repository, and its transitions: each is one conditional UPDATE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from django.db import models, router
from django.db.models import Exists
from django.db.models.functions import Now

from coderepos.exceptions import CodeReposError, SandboxMissing
from coderepos.models.error_columns import error_columns
from coderepos.models.locking import row_transaction
from coderepos.models.purge import Purge
from coderepos.models.worker_fields import WorkerFieldsModel


class CloneStatus(models.TextChoices):
    """State of a repository."""

    PENDING = "PENDING"
    CLONING = "CLONING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CLEANING = "CLEANING"
    CLEANED = "CLEANED"


RESTARTABLE: Final = (CloneStatus.FAILED, CloneStatus.CLEANED)


class CloneTransitions(WorkerFieldsModel):
    """A row with a ``clone_status``; each transition returns whether it won."""

    jobs: Any
    """Its jobs, of every state."""

    class Meta:
        abstract = True

    def begin_cloning(self) -> bool:
        """PENDING → CLONING; CLONING stays if an expired lease is taken over, and COMPLETED, which a job updates."""
        return (
            self._transition((CloneStatus.PENDING, CloneStatus.CLONING), CloneStatus.CLONING) or self.lock_completed()
        )

    def lock_completed(self) -> bool:
        """Lock a COMPLETED row until the end of the transaction, and return whether it is one."""
        held = self._rows().filter(pk=self.pk, clone_status=CloneStatus.COMPLETED)
        return held.update(clone_status=CloneStatus.COMPLETED) == 1

    def mark_sandbox_missing(self, *, version: str) -> bool:
        """COMPLETED → FAILED if the version is gone from the disk, unless an unfinished job will publish another."""
        using = router.db_for_write(type(self), instance=self)
        with row_transaction(using):
            if not self.lock_completed() or self.jobs.using(using).unfinished().exists():
                return False
            return self._transition(
                (CloneStatus.COMPLETED,),
                CloneStatus.FAILED,
                having={"version": version},
                sandbox_path=None,
                **error_columns(SandboxMissing()),
            )

    def mark_sandbox_found(self, *, version: str, sandbox_path: str) -> bool:
        """FAILED although a version was published → COMPLETED, if it is on the disk again.

        It was missing, or its machine lost, and no job has made another one.
        """
        return self._transition(
            (CloneStatus.FAILED,),
            CloneStatus.COMPLETED,
            having={"version": version},
            sandbox_path=sandbox_path,
            **error_columns(None),
        )

    def wait_for_retry(self, error: CodeReposError) -> bool:
        """CLONING → PENDING after a transient failure; a failed update changes nothing."""
        return self._transition((CloneStatus.CLONING,), CloneStatus.PENDING, **error_columns(error))

    def complete(self, values: Mapping[str, Any]) -> bool:
        """CLONING or COMPLETED → COMPLETED with the figures of the published version."""
        return self._transition(
            (CloneStatus.CLONING, CloneStatus.COMPLETED),
            CloneStatus.COMPLETED,
            **{"cloned_at": Now(), "stored_pack": None, **error_columns(None), **values},
        )

    def fail(self, error: CodeReposError) -> bool:
        """PENDING or CLONING → FAILED; a failed update changes nothing."""
        return self._transition((CloneStatus.PENDING, CloneStatus.CLONING), CloneStatus.FAILED, **error_columns(error))

    def leave_disk(self) -> bool:
        """COMPLETED stays, but no disk has the version any more: the storage for packs alone has it."""
        return self._transition((CloneStatus.COMPLETED,), CloneStatus.COMPLETED, sandbox_path=None, version="", node="")

    def lock_stored_only(self) -> bool:
        """Lock a row whose version no disk has until the end of the transaction, and return whether it is one."""
        held = self._rows().filter(
            pk=self.pk, clone_status=CloneStatus.COMPLETED, sandbox_path=None, stored_pack__isnull=False
        )
        return held.update(clone_status=CloneStatus.COMPLETED) == 1

    def lose_stored_pack(self, *, stored_pack: Any) -> bool:
        """Forget what was stored; COMPLETED → CLONING where no disk has the version either, so that nothing is left.

        :returns: whether nothing is left.
        """
        self._rows().filter(pk=self.pk, stored_pack=stored_pack).update(stored_pack=None)
        return self._transition(
            (CloneStatus.COMPLETED,), CloneStatus.CLONING, having={"stored_pack": None, "version": ""}
        )

    def displace(self, *, version: str, node: str) -> bool:
        """COMPLETED → PENDING, since the machine that has the version is lost and another one shall make it anew."""
        return self._transition(
            (CloneStatus.COMPLETED,),
            CloneStatus.PENDING,
            having={"version": version, "node": node},
            sandbox_path=None,
        )

    def restart(self, sources: tuple[CloneStatus, ...] = RESTARTABLE) -> bool:
        """FAILED or CLEANED → PENDING, by request."""
        return self._transition(sources, CloneStatus.PENDING, **error_columns(None))

    def begin_cleaning(self) -> bool:
        """COMPLETED or FAILED → CLEANING: readers have no version from here on, the machine its bytes for a while."""
        return self._transition(
            (CloneStatus.COMPLETED, CloneStatus.FAILED),
            CloneStatus.CLEANING,
            sandbox_path=None,
            version="",
            stored_pack=None,
            **error_columns(None),
        )

    def end_cleaning(self) -> bool:
        """Go from CLEANING to CLEANED, when no machine has anything of it; what was cloned last stays on record."""
        return self._transition(
            (CloneStatus.CLEANING,),
            CloneStatus.CLEANED,
            ~Exists(Purge.objects.filter(repository_id=self.pk)),
            node="",
            repository_size_mb=None,
            substitutions={},
            substituted_paths=[],
        )

    def _rows(self) -> models.QuerySet[Any]:
        return type(self)._default_manager.all()

    def _transition(
        self,
        sources: tuple[CloneStatus, ...],
        target: CloneStatus,
        *conditions: Any,
        having: Mapping[str, Any] | None = None,
        **values: Any,
    ) -> bool:
        won = (
            self._rows()
            .filter(*conditions, pk=self.pk, clone_status__in=sources, **(having or {}))
            .update(clone_status=target, updated_at=Now(), **values)
        )
        return won == 1
