"""Room on a disk is given out once, in the order of those who wait, and comes back with the job that held it."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import OperationalError
from django.db.models.functions import Now
from model_bakery import baker

from coderepos.crypto.secret import Secret
from coderepos.exceptions import WaitingForDisk
from coderepos.models import CloneStatus, CodeRepository, Job, JobState, LeaseLost, Node, Purge, get_project_model
from coderepos.models import disk as rows
from coderepos.sandbox.space import Space
from tests.support.database import connection

pytestmark = pytest.mark.django_db(transaction=True)

MB = 10**6
HUGE = 10**15


def space(*, free_bytes: int = HUGE, free_inodes: int | None = None) -> Space:
    """Return the room of a file system with plenty of everything that is not named."""
    return Space(total_bytes=HUGE, free_bytes=free_bytes, total_inodes=1_000_000, free_inodes=free_inodes)


def columns(*, budget_mb: int | None = None, measured: Space | None = None) -> Mapping[str, Any]:
    """Return the columns of a machine with a budget."""
    budget_bytes = None if budget_mb is None else budget_mb * MB
    return rows.space_columns(measured or space(), budget_bytes=budget_bytes, free_bytes=0)


@pytest.fixture
def node() -> Node:
    """A machine."""
    return Node.objects.create(name="here")


def queued() -> Job:
    """Store a clone that waits for a worker."""
    repository = baker.make(
        CodeRepository,
        project=baker.make(get_project_model()),
        git_url=f"https://h/{uuid.uuid4()}",
        token_ciphertext=Secret(""),
    )
    return Job.objects.create(repository=repository)


def claimed(job: Job | None = None) -> Job:
    """Let the machine claim a job."""
    found = Job.objects.claim((job or queued()).pk, node="here")
    assert found
    return found


def reserve(job: Job, node: Node, needed_mb: int, *, limit_mb: int = 1_000, **values: Any) -> int | None:
    """Reserve room, and return how many MB were granted."""
    granted = rows.reserve(job, node, columns(**values), needed_bytes=needed_mb * MB, limit_bytes=limit_mb * MB)
    return None if granted is None else granted // MB


def publish(job: Job, size_mb: int) -> None:
    """Publish what a job made."""
    job.succeed(repository_values={"repository_size_mb": Decimal(size_mb), "node": "here", "version": "v"})


def wait(job: Job, needed_mb: int) -> None:
    """Send a job that got no room back to the queue."""
    assert rows.wait_for_disk(job, WaitingForDisk(), needed_bytes=needed_mb * MB, after_seconds=60)


def test_what_is_used_and_reserved_stays_below_the_budget(node: Node) -> None:
    """Clones that are published and those that are made count together; room comes back however a job ends."""
    published, failed, lost = claimed(), claimed(), claimed()
    assert reserve(published, node, 30, budget_mb=100) == 30
    assert reserve(failed, node, 40, budget_mb=100) == 40
    assert reserve(lost, node, 40, budget_mb=100) is None
    publish(published, 25)
    assert reserve(lost, node, 35, budget_mb=100) == 35
    assert reserve(claimed(), node, 1, budget_mb=100) is None

    assert failed.fail(WaitingForDisk())
    assert reserve(claimed(), node, 40, budget_mb=100) == 40
    Job.objects.filter(pk=lost.pk).update(lease_until=Now() - timedelta(seconds=1))
    assert Job.objects.get(pk=lost.pk).expire_lease(WaitingForDisk()) == JobState.QUEUED
    assert reserve(claimed(), node, 35, budget_mb=100) == 35


def test_readers_keep_their_clone_while_another_is_made(node: Node) -> None:
    """Of a repository that is cloned again both versions count, until the new one takes the place of the old."""
    job = claimed()
    publish(job, 60)
    again = claimed(Job.objects.create(repository=job.repository))
    assert reserve(again, node, 60, budget_mb=100) is None
    assert reserve(again, node, 40, budget_mb=100) == 40
    publish(again, 35)
    assert reserve(claimed(), node, 65, budget_mb=100) == 65


def test_deleted_repository_takes_room_until_it_is_removed(node: Node) -> None:
    """A deletion is quick, and the disk may be slow, or away."""
    job = claimed()
    publish(job, 60)
    CodeRepository.objects.get(pk=job.repository_id).delete()
    assert reserve(claimed(), node, 41, budget_mb=100) is None
    assert reserve(claimed(), node, 40, budget_mb=100) == 40

    Purge.objects.all().delete()
    assert reserve(claimed(), node, 60, budget_mb=100) == 60


def test_whole_limit_is_reserved_where_there_is_plenty(node: Node) -> None:
    """An estimate that was too low costs nothing then; where room is short each gets what it needs."""
    assert reserve(claimed(), node, 5, limit_mb=50, budget_mb=149) == 50
    assert reserve(claimed(), node, 5, limit_mb=50, budget_mb=149) == 5
    assert reserve(claimed(), node, 5, limit_mb=1_000) == 1_000


def test_floor_holds_without_a_budget(node: Node) -> None:
    """What others leave free above the floor is all that there is; a lack of inodes is a lack of room."""
    floor = space(free_bytes=100 * MB)
    assert reserve(claimed(), node, 101, measured=floor) is None
    assert reserve(claimed(), node, 60, measured=floor) == 60
    assert reserve(claimed(), node, 60, measured=floor) is None
    assert reserve(claimed(), node, 1, measured=space(free_inodes=40_000)) is None
    assert reserve(claimed(), node, 1, measured=space(free_inodes=60_000))


def test_default_floor_suits_small_and_large_disks() -> None:
    """It is a twentieth, and no more than what lets others work on a large one."""
    small = Space(total_bytes=1_000 * MB, free_bytes=0, total_inodes=0, free_inodes=None)

    assert small.floor_bytes(None) == 50 * MB
    assert space().floor_bytes(None) == 5_000 * MB
    assert small.floor_bytes(0) == 0


def test_renamed_machine_has_one_disk(node: Node) -> None:
    """What it published and reserves under its former name counts too."""
    publish(claimed(), 60)
    renamed = Node.objects.create(name="elsewhere", root_id=node.root_id)
    assert reserve(claimed(), renamed, 41, budget_mb=100) is None
    assert reserve(claimed(), Node.objects.create(name="another"), 41, budget_mb=100) == 41


def test_attempt_without_room_does_not_count(node: Node) -> None:
    """The job is queued again, with what it needs, and its repository says what it waits for."""
    job = claimed()
    wait(job, 500)

    job.refresh_from_db()
    assert (job.state, job.attempt, job.needed_bytes, job.lease_token) == (JobState.QUEUED, 0, 500 * MB, None)
    assert (job.repository.clone_status, job.repository.error_code) == (CloneStatus.PENDING, "waiting_for_disk")
    assert not Job.objects.due().exists()
    Job.objects.update(next_attempt_at=Now())
    again = claimed(job)
    assert again.attempt == 1
    assert reserve(again, node, 500) == 1_000
    again.refresh_from_db()
    assert (again.needed_bytes, again.waits_for_disk_since) == (None, None)


def test_patience_ends(node: Node) -> None:
    """After a day of waiting an attempt without room is one that failed."""
    job = claimed()
    Job.objects.filter(pk=job.pk).update(waits_for_disk_since=Now() - timedelta(days=2))
    assert not rows.wait_for_disk(job, WaitingForDisk(), needed_bytes=1, after_seconds=60)
    assert job.fail(WaitingForDisk())


def test_lost_lease_reserves_nothing(node: Node) -> None:
    """A worker that woke too late holds no room."""
    job = claimed()
    Job.objects.filter(pk=job.pk).update(lease_token=uuid.uuid4())

    with pytest.raises(LeaseLost):
        reserve(job, node, 10)
    assert not rows.wait_for_disk(job, WaitingForDisk(), needed_bytes=1, after_seconds=60)


def test_smaller_jobs_do_not_starve_a_larger_one(node: Node) -> None:
    """One that only waits for others to end is not passed by those that came later."""
    running, large = claimed(), claimed()
    assert reserve(running, node, 50, budget_mb=100) == 50
    assert reserve(large, node, 80, budget_mb=100) is None
    wait(large, 80)

    assert reserve(claimed(), node, 30, budget_mb=100) is None
    assert reserve(claimed(), node, 10, budget_mb=100) is None
    running.fail(WaitingForDisk())
    assert reserve(claimed(), node, 20, budget_mb=100) == 20
    Job.objects.filter(pk=large.pk).update(next_attempt_at=Now())
    assert reserve(claimed(large), node, 80, budget_mb=100) == 80


def test_large_job_does_not_block_smaller_ones(node: Node) -> None:
    """One that waits for clones to go, which may take for ever, is passed."""
    publish(claimed(), 50)
    large = claimed()
    assert reserve(large, node, 80, budget_mb=100) is None
    wait(large, 80)

    assert reserve(claimed(), node, 30, budget_mb=100) == 30


def test_longest_waiting_jobs_wake_first(node: Node) -> None:
    """As many as fit, in their order; one that does not fit yet is not passed."""
    jobs = [claimed() for _ in range(4)]
    for age, (job, needed_mb) in enumerate(zip(jobs, (30, 30, 60, 10), strict=True)):
        wait(job, needed_mb)
        Job.objects.filter(pk=job.pk).update(waits_for_disk_since=Now() - timedelta(hours=9 - age))

    assert rows.wake_waiting(rows.room_of(["here"], columns(budget_mb=100))) == 2
    assert set(Job.objects.due()) == {jobs[0], jobs[1]}
    assert rows.wake_waiting(rows.room_of(["here"], columns(budget_mb=100))) == 0
    assert rows.wake_waiting(rows.room_of(["here"], columns(budget_mb=130))) == 2


@pytest.fixture(params=["read committed", "repeatable read"] if connection.vendor == "postgresql" else ["sqlite"])
def isolation_level(request: pytest.FixtureRequest) -> Iterator[None]:
    """Give the connections of threads another isolation level, as hosts may."""
    if request.param == "sqlite":
        yield
        return
    name = connection.ops.quote_name(connection.settings_dict["NAME"])
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = '{request.param}'")
        yield
        cursor.execute(f"ALTER DATABASE {name} RESET default_transaction_isolation")


@pytest.mark.usefixtures("isolation_level")
def test_budget_is_never_passed_by_many_at_once(node: Node) -> None:
    """Sixteen workers claim, reserve, publish and fail at once; no look at the rows ever sees more than the budget."""
    budget_mb, seen, stop = 400, [0], threading.Event()
    jobs = [[queued() for _ in range(3)] for _ in range(16)]

    def watch() -> None:
        try:
            while not stop.wait(0.002):
                with connection.cursor() as cursor:
                    cursor.execute(
                        "SELECT (SELECT coalesce(sum(reserved_bytes), 0) FROM code_repo_jobs WHERE state = 'RUNNING'), "
                        "(SELECT coalesce(sum(repository_size_mb), 0) FROM code_repos WHERE clone_status = 'COMPLETED')"
                    )
                    reserved_bytes, used_mb = cursor.fetchone()
                seen.append(reserved_bytes + int(used_mb * MB))
        finally:
            connection.close()

    def work_on(job: Job, needed_mb: int) -> None:
        if not again(reserve, job, node, needed_mb, limit_mb=60, budget_mb=budget_mb):
            again(rows.wait_for_disk, job, WaitingForDisk(), needed_bytes=1, after_seconds=60)
        elif needed_mb == 40:
            again(publish, job, 25)
        else:
            again(job.fail, WaitingForDisk())

    def work(mine: list[Job]) -> None:
        try:
            for needed_mb, job in zip((30, 40, 50), mine, strict=True):
                work_on(again(Job.objects.claim, job.pk, node="here"), needed_mb)
        finally:
            connection.close()

    watcher = threading.Thread(target=watch)
    workers = [threading.Thread(target=work, args=(mine,)) for mine in jobs]
    for thread in (watcher, *workers):
        thread.start()
    for thread in workers:
        thread.join()
    stop.set()
    watcher.join()

    assert 0 < max(seen) <= budget_mb * MB
    assert not Job.objects.filter(state=JobState.RUNNING).exists()


def again(operation: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Repeat what another writer was in the way of, as leases do."""
    for _ in range(50):
        try:
            return operation(*arguments, **named)
        except OperationalError:
            connection.close()
    return operation(*arguments, **named)
