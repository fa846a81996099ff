"""Workers take turns among flows: nobody waits behind the queue of another tenant, and slots hold."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, transaction
from django.db.models.functions import Now
from model_bakery import baker

from coderepos.crypto.secret import Secret
from coderepos.exceptions import RemoteTimeout
from coderepos.limits import Limits
from coderepos.models import CodeRepository, Flow, Job, JobState
from coderepos.models import flow as flow_module
from coderepos.models.fair_claim import claim_next
from coderepos.projects.models import Project
from coderepos.services import leases
from tests.support.database import ALIAS, connection

pytestmark = pytest.mark.django_db
on_postgresql = pytest.mark.skipif(
    connection.vendor != "postgresql", reason="SQLite has no row locks, and one process writes at a time"
)


class Tenant:
    """A flow with jobs in the queue."""

    def __init__(self, name: str, **limits: Any) -> None:
        self.limits = Limits(flow=name, **limits)
        self._project = baker.make(Project)

    def queue(self, count: int, *, joins: bool = True, **values: Any) -> list[Job]:
        """Queue clones of repositories of its own."""
        jobs = []
        for _ in range(count):
            repository = CodeRepository(
                project=self._project, git_url=f"https://h/{uuid.uuid4()}", token_ciphertext=Secret("")
            )
            repository.save(force_insert=True)
            jobs.append(Job.objects.create(repository=repository, flow=self.limits.flow, **values))
        if joins and jobs:
            Flow.objects.join(jobs[0], self.limits)
        return jobs


def claim() -> Job | None:
    """Claim as a worker does."""
    return claim_next(node="node", lease_token=uuid.uuid4())


def end(job: Job, *, seconds: float = 0) -> None:
    """Let a job end that ran for so long."""
    job.succeed(repository_values={})
    Flow.objects.charge_running_time(job.flow, seconds=seconds)


def flows_of(claims: int, *, seconds: float = 0) -> list[str]:
    """Return whose jobs a single worker runs."""
    found = []
    for _ in range(claims):
        job = claim()
        if job is None:
            break
        found.append(job.flow)
        end(job, seconds=seconds)
    return found


@pytest.mark.parametrize("seconds", [0, 300])
def test_stranger_is_at_most_one_round_behind_sixty_jobs(seconds: float) -> None:
    """Whatever one tenant queued first, and however long its jobs run, another one is second at worst."""
    Tenant("flood").queue(60)
    before = flows_of(5, seconds=seconds)

    Tenant("stranger").queue(1)

    assert before == ["flood"] * 5
    assert "stranger" in flows_of(2, seconds=seconds)
    if not seconds:
        assert len(flows_of(100)) == 54, "nothing of the flood is lost"


def test_new_tenant_saved_up_no_turns() -> None:
    """One that had nothing to do for long shares from now on, and doesn't shut out the others."""
    old, new = Tenant("old"), Tenant("new")
    old.queue(30)
    flows_of(20)

    new.queue(10)

    assert sorted(flows_of(8)) == ["new"] * 4 + ["old"] * 4


def test_new_tenant_is_level_with_those_who_wait_for_workers() -> None:
    """One whose slots are taken falls behind meanwhile, which gives no turns to anybody who comes after it."""
    Tenant("held", slots=1).queue(3)
    assert claim() is not None
    Tenant("old").queue(60)
    flows_of(30)

    Tenant("new").queue(60)

    assert sorted(flows_of(8)) == ["new"] * 4 + ["old"] * 4


def test_turns_go_by_weight() -> None:
    """A weight of 3 is three turns for each one of a weight of 1."""
    Tenant("paying", weight=3).queue(20)
    Tenant("free").queue(20)

    assert flows_of(16).count("paying") == 12


def test_long_jobs_cost_turns() -> None:
    """Who holds the workers for long is served less often."""
    Tenant("slow").queue(30)
    Tenant("quick").queue(30)
    counts = {"slow": 0, "quick": 0}

    for _ in range(20):
        job = claim()
        assert job is not None
        counts[job.flow] += 1
        end(job, seconds=60 if job.flow == "slow" else 0)

    assert counts["quick"] >= 2 * counts["slow"]


def test_slots_bound_what_runs_of_a_flow() -> None:
    """The third job waits until one of two ends, and other flows do not wait for it."""
    Tenant("narrow", slots=2).queue(4)
    first, second = claim(), claim()
    assert first
    assert second
    Tenant("other").queue(1)

    assert [job and job.flow for job in (claim(), claim())] == ["other", None]
    end(first)
    assert [job and job.flow for job in (claim(), claim())] == ["narrow", None]


def test_order_within_a_flow_is_that_of_waiting() -> None:
    """The job that has been due for longest is next."""
    (young,) = Tenant("one").queue(1)
    (old,) = Tenant("one").queue(1, created_at=Now() - timedelta(hours=1))

    assert [job and job.pk for job in (claim(), claim())] == [old.pk, young.pk]


def test_retry_gets_its_turn_when_it_is_due() -> None:
    """A flow that only waits for a retry is passed over, and comes back by itself."""
    (job,) = Tenant("one").queue(1)
    claimed = claim()
    assert claimed
    assert claimed.schedule_retry(RemoteTimeout())
    Flow.objects.join(claimed)

    assert claim() is None
    assert not Flow.objects.get().active
    Job.objects.update(next_attempt_at=Now() - timedelta(seconds=1))
    Flow.objects.update(ready_at=Now() - timedelta(seconds=1))
    again = claim()
    assert again
    assert again.pk == job.pk


@pytest.mark.parametrize("has_row", [True, False])
def test_job_that_no_flow_knows_of_is_found(*, has_row: bool) -> None:
    """A process that died after the commit of a job costs nothing but the repair."""
    if has_row:
        Flow.objects.create(key="one", virtual_time=7)
    Tenant("one").queue(2, joins=False)

    assert flows_of(5) == ["one", "one"]


def test_flow_that_knows_of_its_jobs_is_not_found() -> None:
    """Nor one whose jobs are not due yet; each of the others is, however many jobs are before it."""
    Tenant("aware").queue(30)
    Tenant("later").queue(2, joins=False, next_attempt_at=Now() + timedelta(hours=1))
    Tenant("lost").queue(3, joins=False)
    Tenant("zero").queue(1, joins=False)
    Flow.objects.create(key="zero")

    assert Flow.objects.repair() == 2
    assert Flow.objects.repair() == 0
    assert set(Flow.objects.filter(active=True).values_list("key", flat=True)) == {"aware", "lost", "zero"}


def test_flows_that_nothing_waits_in_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for those that owe turns, and those with a job that waits, waits for its time, or runs."""
    monkeypatch.setattr(flow_module, "FORGOTTEN_AT_ONCE", 2)
    for number in range(5):
        Flow.objects.create(key=f"gone {number}", virtual_time=number)
    Flow.objects.create(key="ahead", virtual_time=1_000)
    Tenant("waits").queue(2)
    Tenant("runs").queue(1)
    Tenant("later").queue(1, joins=False, next_attempt_at=Now() + timedelta(hours=1))
    Flow.objects.create(key="later")
    Flow.objects.filter(key__in=["waits", "runs"]).update(virtual_time=10)
    assert {job.flow for job in (claim(), claim()) if job} == {"runs", "waits"}

    assert Flow.objects.forget_idle() == 5

    assert set(Flow.objects.values_list("key", flat=True)) == {"ahead", "waits", "runs", "later"}
    Job.objects.all().delete()
    Flow.objects.update(active=False, ready_at=None)
    assert Flow.objects.forget_idle() == 4


def test_job_without_attempts_does_not_stop_its_flow() -> None:
    """One that can't be claimed is passed over, in its flow and by the others."""
    Tenant("one").queue(1, attempt=4)
    Tenant("one").queue(1)
    Tenant("two").queue(1)

    assert sorted(flows_of(5)) == ["one", "two"]


@pytest.mark.django_db(transaction=True)
def test_claim_whose_commit_was_not_confirmed_gets_its_job_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a database error nobody knows whether it was committed; the next try finds out, and takes no second job."""
    Tenant("one").queue(2)
    original = claim_next
    calls: list[Any] = []

    def lose_the_answer(**arguments: Any) -> Job | None:
        job = original(**arguments)
        calls.append(job)
        raise OperationalError("the connection is gone")

    monkeypatch.setattr(leases, "claim_next", lose_the_answer)
    monkeypatch.setattr(leases, "PAUSE_SECONDS", 0.01)

    lease = leases.claim(uuid.uuid4(), node="node")

    assert lease
    assert [lease.job.pk] == [job.pk for job in calls]
    assert Job.objects.filter(state=JobState.RUNNING).count() == 1


def at_once(number: int, work: Callable[[], Any]) -> list[Any]:
    """Call ``work`` in threads that start together."""
    start = threading.Barrier(number)

    def run(_: int) -> Any:
        try:
            start.wait()
            return work()
        finally:
            connection.close()

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(run, range(number)))


@on_postgresql
@pytest.mark.django_db(transaction=True)
def test_slots_hold_under_sixteen_claimers() -> None:
    """No flow ever runs more than it may, however many claim at once, and no job is claimed twice."""
    names = ("one", "two", "three")
    for name in names:
        Tenant(name, slots=2).queue(8)
    claimed: list[Job] = []

    for _ in range(4):
        won = [job for job in at_once(16, claim) if job]
        running = [Job.objects.filter(flow=name, state=JobState.RUNNING).count() for name in names]
        assert max(running) <= 2
        assert sum(running) == len(won) > 0
        claimed += won
        for job in won:
            end(job)

    assert len(claimed) == len({job.pk for job in claimed})


@on_postgresql
@pytest.mark.django_db(transaction=True)
def test_lone_flow_serves_sixteen_claimers() -> None:
    """Claims of one flow wait for each other instead of going away with nothing."""
    Tenant("one").queue(16)

    claimed = at_once(16, claim)

    assert len({job.pk for job in claimed if job}) == 16


@on_postgresql
@pytest.mark.django_db(transaction=True)
def test_flow_that_is_held_delays_no_other() -> None:
    """A process that froze in a claim keeps its own flow, and claims of others don't wait for it."""
    Tenant("held").queue(2)
    Tenant("free").queue(2)
    held, done = threading.Event(), threading.Event()

    def freeze() -> None:
        with transaction.atomic(using=ALIAS):
            Flow.objects.select_for_update().get(pk="held")
            held.set()
            done.wait(30)
        connection.close()

    thread = threading.Thread(target=freeze)
    thread.start()
    held.wait(30)
    try:
        assert flows_of(3) == ["free", "free"]
    finally:
        done.set()
        thread.join()
    assert flows_of(3) == ["held", "held"]


@on_postgresql
@pytest.mark.django_db(transaction=True)
def test_claims_are_planned_by_indexes() -> None:
    """Whatever is queued and finished, no statement of a claim reads a whole table or sorts it."""
    for number in range(5):
        Tenant(f"t{number}").queue(1)
    project = baker.make(Project)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO code_repos (id, project_id, git_url, url_key, ref, username, platform, token_ciphertext,"
            " token_kid, has_token, size_source, version, node, commit_id, ref_name, substitutions, substituted_paths,"
            " error_code, error_message) SELECT gen_random_uuid(), %s, 'u', 'k' || i, '', '', '', '', '', false, '',"
            " '', '', '', '', '{}', '[]', '', '' FROM generate_series(1, 20000) i",
            [project.pk],
        )
        cursor.execute(
            "INSERT INTO code_repo_jobs (id, repository_id, kind, state, flow, attempt, max_attempts, node, progress,"
            " result, error_code, error_message, bytes_received) SELECT gen_random_uuid(), id, 'CLONE',"
            " CASE WHEN random() < 0.5 THEN 'QUEUED' ELSE 'SUCCEEDED' END, 'flood', 0, 4, '', '{}', '{}', '', '', 0"
            " FROM code_repos WHERE project_id = %s",
            [project.pk],
        )
        cursor.execute(
            "INSERT INTO code_repo_flows (key, virtual_time, weight, active) SELECT 'f' || i, i, 1, i % 2 = 0"
            " FROM generate_series(1, 5000) i"
        )
        Flow.objects.join(Job.objects.filter(flow="flood", state=JobState.QUEUED)[0], Limits(flow="flood", slots=2))
        cursor.execute("ANALYZE code_repo_jobs; ANALYZE code_repo_flows; ANALYZE code_repos")

    statements: list[str] = []

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith(("SELECT", "UPDATE")):
            statements.append(context["cursor"].mogrify(sql, params))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note):
        assert claim()

    nodes = set()
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}")
            ((plan,),) = cursor.fetchall()
            nodes |= _nodes(plan if isinstance(plan, list) else json.loads(plan))
    assert len(statements) >= 6
    assert not {node for node in nodes if node[0] in ("Seq Scan", "Sort")}


def _nodes(plan: Any) -> set[tuple[str, str]]:
    """Return the kinds of all nodes of a plan, with the table that each reads."""
    if isinstance(plan, list):
        return {node for part in plan for node in _nodes(part)}
    plan = plan.get("Plan", plan)
    found = {(plan["Node Type"], plan.get("Relation Name", ""))}
    for part in plan.get("Plans", []):
        found |= _nodes(part)
    return found
