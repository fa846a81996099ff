"""What is in the storage for packs, or on its way there or away: the database alone says what belongs there.

A row is the intention to store one published version. It is written before its first byte is, so that whatever a killed
process leaves in the storage has a row that names it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Final, Self

from django.db import models
from django.db.models import Exists, F, OuterRef, Q
from django.db.models.functions import Now

from coderepos.models.clone_transitions import CloneStatus
from coderepos.models.database import PrimaryQuerySet, alias
from coderepos.models.job_queryset import seconds_from_now
from coderepos.models.locking import row_transaction
from coderepos.models.repository import CodeRepository

LEASE_SECONDS: Final = 60
"""How long a row belongs to a process that does not renew it: one that was killed is followed after that."""

SETTLE_SECONDS: Final = 3600
"""How long a row outlives the removal of its bytes: longer than any upload takes, so that one which had not noticed is
cleaned up after too."""

FIRST_RETRY_SECONDS: Final = 5
LONGEST_RETRY_SECONDS: Final = 600

REMOVED: Final = (CloneStatus.CLEANING, CloneStatus.CLEANED)
"""States in which nothing of a repository is kept."""


class PackState(models.TextChoices):
    """State of a stored pack."""

    UPLOADING = "UPLOADING"
    STORED = "STORED"
    LEAVING = "LEAVING"


class StoredPackQuerySet(PrimaryQuerySet["StoredPack"]):
    """Queries of stored packs."""

    def intend(self, names: Iterable[str], *, at_most: int) -> int:
        """Write the intention for published versions on the machine with these names that have none.

        :returns: how many versions were found.
        """
        versions = list(
            unstored()
            .filter(node__in=[*names])
            .exclude(Exists(self.filter(repository_id=OuterRef("pk"), version=OuterRef("version")).present()))
            .values_list("pk", "version", "node")[:at_most]
        )
        self.bulk_create(
            [StoredPack(repository_id=pk, version=version, node=node) for pk, version, node in versions],
            ignore_conflicts=True,
        )
        return len(versions)

    def present(self) -> Self:
        """Those whose bytes are, or shall be, in the storage."""
        return self.exclude(state=PackState.LEAVING)

    def take(self, state: PackState, names: Iterable[str] | None = None) -> StoredPack | None:
        """Take the row of a state that has been due for longest, for :data:`LEASE_SECONDS`.

        :param names: of the machine whose rows are meant; all rows by default.
        """
        due = self.filter(state=state, due_at__lte=Now())
        if names is not None:
            due = due.filter(node__in=[*names])
        for pk, tries in due.order_by("due_at").values_list("pk", "tries")[:10]:
            won = due.filter(pk=pk, tries=tries).update(tries=F("tries") + 1, due_at=seconds_from_now(LEASE_SECONDS))
            if won:
                return self.get(pk=pk)
        return None

    def leave(self, condition: Q) -> int:
        """Have these rows removed with their bytes, at once; returns how many."""
        return self.present().filter(condition).update(state=PackState.LEAVING, due_at=Now(), left_at=Now(), tries=0)

    def leave_unneeded(self) -> int:
        """Have the bytes removed that no repository needs; returns how many rows."""
        rows = CodeRepository.objects.filter(pk=OuterRef("repository_id")).exclude(clone_status__in=REMOVED)
        needed = Exists(rows.filter(stored_pack=OuterRef("pk"))) | Exists(
            rows.filter(version=OuterRef("version"), stored_pack=None, clone_status=CloneStatus.COMPLETED)
        )
        settled = Q(state=PackState.STORED) | Q(due_at__lt=Now() - timedelta(seconds=LEASE_SECONDS))
        return self.leave(Q(pk__in=self.filter(settled).exclude(needed).values("pk")))


class StoredPack(models.Model):
    """The pack, the index and the manifest of one published version in the storage.

    No foreign key: it survives the repository, since its bytes do.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    """Part of every name in the storage, so that no name is used twice."""

    repository_id = models.UUIDField()
    version = models.TextField()
    """The version that was stored; a restored one has another name."""

    node = models.TextField()
    """Machine that stores it."""

    state = models.TextField(choices=PackState.choices, default=PackState.UPLOADING)
    pack_sha256 = models.TextField(default="")
    pack_bytes = models.PositiveBigIntegerField(default=0)
    index_sha256 = models.TextField(default="")
    index_bytes = models.PositiveBigIntegerField(default=0)
    manifest_sha256 = models.TextField(default="")
    tries = models.PositiveIntegerField(default=0)
    """How often it was taken in this state; whoever took it last owns it."""

    due_at = models.DateTimeField(db_default=Now())
    error = models.TextField(default="")
    created_at = models.DateTimeField(db_default=Now())
    stored_at = models.DateTimeField(null=True)
    left_at = models.DateTimeField(null=True)

    objects = StoredPackQuerySet.as_manager()

    class Meta:
        db_table = "code_repo_stored_packs"
        base_manager_name = "objects"
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(
                fields=["repository_id", "version"],
                condition=~Q(state="LEAVING"),
                name="code_repo_stored_packs_once",
            ),
        ]
        indexes = [
            models.Index(fields=["state", "due_at"], name="code_repo_stored_packs_due"),
            models.Index(fields=["repository_id"], name="code_repo_stored_packs_repo"),
        ]

    def __str__(self) -> str:
        return f"{self.repository_id} {self.version}"

    def renew(self) -> bool:
        """Extend the time for which the row is ours, and return whether it still is."""
        return self._update(due_at=seconds_from_now(LEASE_SECONDS))

    def record_digests(self, **values: Any) -> bool:
        """Record what is about to be written, and return whether the row is still ours."""
        return self._update(**values)

    def put_off(self, error: str) -> bool:
        """Let the row be tried again after 5 s, 10 s and so on, ten minutes at most."""
        delay_seconds = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(self.tries - 1, 10))
        return self._update(due_at=seconds_from_now(delay_seconds), error=error)

    def settle(self) -> bool:
        """Let the bytes of a row that leaves be removed once more, when no upload can be on its way any longer."""
        return self._update(due_at=F("left_at") + timedelta(seconds=SETTLE_SECONDS), error="")

    def has_settled(self) -> bool:
        """Return whether no upload of these bytes can be on its way any longer."""
        since = Now() - timedelta(seconds=SETTLE_SECONDS)
        return StoredPack.objects.filter(pk=self.pk, left_at__lte=since).exists()

    def finish(self) -> bool:
        """Record UPLOADING → STORED, in the repository too if it still has that version; earlier packs of it leave.

        :returns: whether the repository has a use for it; if not, it leaves.
        """
        with row_transaction(alias()):
            # Its row before ours, as whoever removes it takes them: else each of the two waits for the other.
            CodeRepository.objects.filter(pk=self.repository_id).update(updated_at=F("updated_at"))
            if not self._update(state=PackState.STORED, stored_at=Now(), error="", tries=0):
                return False
            others = Q(repository_id=self.repository_id) & ~Q(pk=self.pk)
            told = CodeRepository.objects.filter(
                pk=self.repository_id, version=self.version, clone_status=CloneStatus.COMPLETED
            ).update(stored_pack=self.pk)
            StoredPack.objects.leave(others & Q(state=PackState.STORED) if told else Q(pk=self.pk))
        return bool(told)

    def _update(self, **values: Any) -> bool:
        mine = StoredPack.objects.filter(pk=self.pk, state=self.state, tries=self.tries)
        return mine.update(**values) == 1


def unstored() -> models.QuerySet[CodeRepository]:
    """Return the published repositories whose version is not stored."""
    return CodeRepository.objects.filter(clone_status=CloneStatus.COMPLETED, stored_pack=None).exclude(version="")
