"""Flows: whose turn it is when a worker is free, by stride scheduling.

Every job belongs to one flow, by default that of its project. A flow has a virtual time, which each job moves on by
1 / weight, and the flow with the least is next; so a long queue of one flow delays no other. Nothing in a row is a
count, so nothing drifts: ``active`` and ``ready_at`` are hints, set when a job is queued and recomputed when one is
claimed, and :meth:`FlowQuerySet.repair` finds what a lost update left behind.
"""

from __future__ import annotations

from typing import Any, Final, Self

from django.db import connections, models
from django.db.models import Case, Exists, F, OuterRef, Q, Subquery, Value, When
from django.db.models.functions import Coalesce, Greatest, Now

from coderepos.limits import Limits
from coderepos.models.database import PrimaryQuerySet
from coderepos.models.job import Job
from coderepos.models.job_states import JobState
from coderepos.models.locking import row_transaction

WOKEN_AT_ONCE: Final = 100
"""Most flows that one claim wakes, or one repair finds; the next one goes on."""

FORGOTTEN_AT_ONCE: Final = 500
MOST_FORGOTTEN: Final = 50_000
"""Most flows that are deleted at once, and by one sweep."""

SECONDS_PER_COST: Final = 30
"""Running time that moves a flow on as far as another job does."""

LARGEST_RUNNING_COST: Final = 9


class FlowQuerySet(PrimaryQuerySet["Flow"]):
    """Queries of flows; each writing one is a single statement that may be repeated."""

    def with_free_slot(self) -> Self:
        """Active flows that run fewer jobs than they may, the next one first."""
        running = (
            Job.objects.filter(flow=OuterRef("key"), state=JobState.RUNNING)
            .order_by()
            .annotate(number=models.Func(F("pk"), function="COUNT", output_field=models.IntegerField()))
            .values("number")
        )
        free = self.filter(active=True).alias(running=Subquery(running))
        return free.filter(Q(slots=None) | Q(running__lt=F("slots"))).order_by("virtual_time", "ready_at", "key")

    def wake(self) -> None:
        """Make flows active whose next job has become due; none of them has saved up turns meanwhile."""
        due = self.filter(active=False, ready_at__lte=Now()).order_by("ready_at")
        keys = due.select_for_update(skip_locked=True, no_key=True).values("pk")[:WOKEN_AT_ONCE]
        with row_transaction(self.db):
            self.filter(pk__in=keys).update(active=True, virtual_time=Greatest(F("virtual_time"), _present_time(self)))

    def join(self, job: Job, limits: Limits | None = None) -> None:
        """Let the flow of a queued job know of it, once that is committed; does nothing for any other job.

        Waits for a claim that is just recomputing the flow, so that neither overwrites the other.

        :param limits: weight and slots that the flow has from now on; those that it has where ``None``.
        """
        shares: dict[str, Any] = {} if limits is None else {"weight": limits.weight, "slots": limits.slots}
        due_at = Subquery(Job.objects.filter(pk=job.pk, state=JobState.QUEUED).first_due_at())
        flow = self.filter(pk=job.flow)
        values = {
            "virtual_time": Case(
                When(active=True, then=F("virtual_time")), default=Greatest(F("virtual_time"), _present_time(self))
            ),
            "active": Case(
                When(Q(active=True) | Exists(Job.objects.due().filter(pk=job.pk)), then=Value(value=True)),
                default=Value(value=False),
            ),
            "ready_at": Case(When(ready_at__lte=due_at, then=F("ready_at")), default=Coalesce(due_at, F("ready_at"))),
            **shares,
        }
        with row_transaction(self.db):
            if not flow.update(**values):
                self.bulk_create([self.model(key=job.flow)], ignore_conflicts=True)
                flow.update(**values)

    def charge(self, key: str, *, cost: float) -> None:
        """Move a flow on by ``cost`` / weight, and recompute what waits in it; the caller has its row locked."""
        self.filter(pk=key).update(
            virtual_time=F("virtual_time") + Value(float(cost)) / F("weight"),
            ready_at=Subquery(Job.objects.filter(flow=key, state=JobState.QUEUED).first_due_at()),
            active=Exists(Job.objects.oldest_due().filter(flow=key)),
        )

    def charge_running_time(self, key: str, *, seconds: float) -> None:
        """Move a flow on by the time that a worker spent on one of its jobs."""
        cost = min(seconds / SECONDS_PER_COST, LARGEST_RUNNING_COST)
        self.filter(pk=key).update(virtual_time=F("virtual_time") + Value(cost) / F("weight"))

    def repair(self) -> int:
        """Let flows join that do not know of a due job of theirs, and return how many.

        That is so where a process died between the commit of a job and :meth:`join`.
        """
        found = self._unaware()
        for key in found:
            if job := Job.objects.oldest_due().filter(flow=key).first():
                self.join(job)
        return len(found)

    def forget_idle(self) -> int:
        """Delete flows that nothing waits or runs in, such as those of deleted projects, and return how many.

        None of them loses or wins a turn: it would begin level with the others, as a new one does. One that was served
        more than the others stays.
        """
        unfinished = Job.objects.filter(flow=OuterRef("key"))
        idle = self.filter(
            ~Exists(unfinished.filter(state=JobState.QUEUED)),
            ~Exists(unfinished.filter(state=JobState.RUNNING)),
            active=False,
            ready_at=None,
            virtual_time__lte=_present_time(self),
        )
        forgotten = 0
        while keys := list(idle.values_list("pk", flat=True)[:FORGOTTEN_AT_ONCE]):
            # Once more by its conditions: a job may have joined one of them.
            forgotten += (deleted := idle.filter(pk__in=keys).delete()[0])
            if not deleted or forgotten >= MOST_FORGOTTEN:
                break
        return forgotten

    def _unaware(self) -> list[str]:
        """Return keys of flows that have a due job and do not know of it.

        By one look at the index for each flow with queued jobs, however many each of them has.
        """
        connection = connections[self.db]
        compiler = self.query.get_compiler(using=self.db)
        now, parameters = compiler.compile(Now())
        tables = {"jobs": Job._meta.db_table, "flows": self.model._meta.db_table}
        names = {name: connection.ops.quote_name(table) for name, table in tables.items()}
        with connection.cursor() as cursor:
            cursor.execute(_UNAWARE.format(now=now, **names), [*parameters, *parameters, WOKEN_AT_ONCE])
            return [key for (key,) in cursor.fetchall()]


_UNAWARE: Final = """
WITH RECURSIVE queued(flow) AS (
    SELECT MIN(flow) FROM {jobs} WHERE state = 'QUEUED'
    UNION ALL
    SELECT (SELECT MIN(later.flow) FROM {jobs} later WHERE later.state = 'QUEUED' AND later.flow > queued.flow)
    FROM queued WHERE queued.flow IS NOT NULL
)
SELECT queued.flow FROM queued
WHERE queued.flow IS NOT NULL
AND NOT EXISTS (SELECT 1 FROM {flows} known WHERE known.key = queued.flow AND (known.active OR known.ready_at <= {now}))
AND EXISTS (
    SELECT 1 FROM {jobs} due
    WHERE due.state = 'QUEUED' AND due.flow = queued.flow AND COALESCE(due.next_attempt_at, due.created_at) <= {now}
)
LIMIT %s
"""


def _present_time(flows: FlowQuerySet) -> Any:
    """Return the virtual time at which a flow begins that had nothing to do, so that it goes level with the others.

    Those count that wait for a worker alone: one whose slots are all taken falls behind, for as long as its jobs run.
    """
    everything = FlowQuerySet(flows.model, using=flows.db)
    first = everything.with_free_slot().values("virtual_time")[:1]
    last = everything.order_by("-virtual_time").values("virtual_time")[:1]
    return Coalesce(Subquery(first), Subquery(last), Value(0.0))


class Flow(models.Model):
    """The turn of one tenant: of a project, unless ``LIMITS`` lets several share one."""

    key = models.TextField(primary_key=True)
    virtual_time = models.FloatField(default=0)
    """How much it was served, divided by its weight; the flow with the least is next."""

    weight = models.FloatField(default=1)
    slots = models.PositiveIntegerField(null=True)
    """Most jobs of it that run at once; as many as there are workers where null."""

    ready_at = models.DateTimeField(null=True)
    """When the first of its queued jobs is due; null where none waits."""

    active = models.BooleanField(default=False)
    """Whether one of its jobs is due."""

    objects = FlowQuerySet.as_manager()

    class Meta:
        db_table = "code_repo_flows"
        base_manager_name = "objects"
        indexes = [
            models.Index(
                fields=["virtual_time", "ready_at", "key"], condition=Q(active=True), name="code_repo_flows_turn"
            ),
            models.Index(fields=["virtual_time"], name="code_repo_flows_latest"),
            models.Index(
                fields=["ready_at"], condition=Q(active=False, ready_at__isnull=False), name="code_repo_flows_wake"
            ),
        ]

    def __str__(self) -> str:
        return self.key
