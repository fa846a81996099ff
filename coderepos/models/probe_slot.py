"""Slots for probes: how many Git hosts the whole site asks at once while a caller waits."""

from __future__ import annotations

import uuid
from typing import Final

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from coderepos.exceptions import PROBES_SECONDS, TooManyProbes
from coderepos.models.database import PrimaryQuerySet
from coderepos.models.job_queryset import seconds_from_now
from coderepos.models.locking import lock_names, row_transaction

_FREE: Final = Q(until=None) | Q(until__lt=Now())


class ProbeSlotQuerySet(PrimaryQuerySet["ProbeSlot"]):
    """Taking slots and giving them back."""

    def take(
        self,
        token: uuid.UUID,
        *,
        slots: int,
        seconds: float,
        project: tuple[str, int | None],
        user: tuple[str, int | None],
    ) -> None:
        """Take a free slot.

        :param token: by which it is given back.
        :param slots: how many there are.
        :param seconds: after which it is free in any case.
        :param project: its key, and the most slots that it may have at once.
        :param user: the same of the user.
        :raises TooManyProbes: none is free, or the project or the user would have too many.
        """
        scopes = {"project": project, "user": user}
        values = {scope: key for scope, (key, _) in scopes.items()}
        with row_transaction(self.db, read_committed=True):
            lock_names(f"coderepos probe {scope} {key}" for scope, (key, most) in scopes.items() if most is not None)
            if not self._take_one(token, slots, seconds, values):
                self.bulk_create([self.model(number=number) for number in range(slots)], ignore_conflicts=True)
                if not self._take_one(token, slots, seconds, values):
                    raise _too_many("site", slots + 1, slots)
            for scope, (key, most) in scopes.items():
                # Counted after it was taken: on SQLite that took the lock, and here the names are locked.
                if most is not None and (figure := self.exclude(_FREE).filter(**{scope: key}).count()) > most:
                    raise _too_many(scope, figure, most)

    def give_back(self, token: uuid.UUID) -> None:
        """Free the slot that was taken with this token, if it still has it."""
        self.filter(token=token).update(token=None, until=None)

    def _take_one(self, token: uuid.UUID, slots: int, seconds: float, values: dict[str, str]) -> bool:
        free = self.filter(_FREE, number__lt=slots).order_by("number").select_for_update(skip_locked=True, no_key=True)
        taken = self.filter(pk__in=free.values("pk")[:1])
        return bool(taken.update(token=token, until=seconds_from_now(seconds), **values))


def _too_many(scope: str, figure: int, limit: int) -> TooManyProbes:
    return TooManyProbes(scope=scope, figure=figure, limit=limit, retry_after_seconds=PROBES_SECONDS)


class ProbeSlot(models.Model):
    """One probe at a time; whoever has its token holds it, and a killed process frees it when its time is over."""

    number = models.PositiveIntegerField(primary_key=True)
    token = models.UUIDField(null=True)
    project = models.TextField(default="")
    """Key of the project for which the probe is."""

    user = models.TextField(default="")
    """Key of the user who waits for it."""

    until = models.DateTimeField(null=True)
    """When it is free again, whatever becomes of its holder."""

    objects = ProbeSlotQuerySet.as_manager()

    class Meta:
        db_table = "code_repo_probe_slots"
        base_manager_name = "objects"

    def __str__(self) -> str:
        return str(self.number)
