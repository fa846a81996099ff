"""Two calls about one repository at the same moment: one of them wins, and nothing is left half done."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections, transaction
from django.db.models import Q
from model_bakery import baker

from coderepos import services
from coderepos.crypto.secret import Secret
from coderepos.exceptions import CodeReposError
from coderepos.models import AuditEntry, CloneStatus, CodeRepository, Job, Purge, StoredPack, alias
from coderepos.models.job_states import UNFINISHED
from coderepos.projects.models import Project
from coderepos.services.repositories.disconnecting import record_disconnection

pytestmark = pytest.mark.django_db(transaction=True)

ROUNDS = 8
Service = Callable[..., object]


@pytest.fixture
def root(django_user_model: Any) -> Any:
    """Who may do everything."""
    return django_user_model.objects.create_superuser("root")


def completed() -> CodeRepository:
    """Return a repository that is COMPLETED."""
    name = f"https://h/{uuid.uuid4()}"
    row: CodeRepository = baker.make(
        CodeRepository,
        project=baker.make(Project),
        git_url=name,
        url_key=name,
        token_ciphertext=Secret(""),
        clone_status=CloneStatus.COMPLETED,
        version="one",
        node="here",
    )
    return row


def at_once(user: Any, repository: CodeRepository, *calls: Service) -> list[str]:
    """Call services at the same moment, and return how each ended: ``done``, or the code of its error."""
    barrier = threading.Barrier(len(calls))
    outcomes = ["died"] * len(calls)

    def call(number: int, service: Service) -> None:
        barrier.wait()
        try:
            service(user=user, repository=repository)
            outcomes[number] = "done"
        except CodeReposError as error:
            outcomes[number] = error.code
        finally:
            connections.close_all()

    threads = [threading.Thread(target=call, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_clean_and_clone(root: Any) -> None:
    """What is being cleaned has no job, and what has one is not being cleaned."""
    for _ in range(ROUNDS):
        repository = completed()

        outcomes = at_once(root, repository, services.clean_repository, services.clone_repository)

        assert sorted(outcomes) in (["done", "job_running"], ["database_busy", "done"]), outcomes
        is_cleaned = outcomes[0] == "done"
        repository.refresh_from_db()
        assert repository.clone_status == (CloneStatus.CLEANING if is_cleaned else CloneStatus.COMPLETED)
        assert Job.objects.filter(repository=repository).exists() is not is_cleaned
        assert Purge.objects.filter(repository_id=repository.pk).exists() is is_cleaned


@pytest.mark.parametrize("ends", ["cleaned", "deleted with its project"])
def test_removal_while_a_pack_is_stored(ends: str) -> None:
    """Who stores waits for the repository first, whoever removes it comes to the pack last: neither is in the way."""
    if connections[alias()].vendor != "postgresql":
        pytest.skip("SQLite has one lock for all")
    repository = completed()
    stored = StoredPack.objects.create(repository_id=repository.pk, version="one", node="here")
    failures: list[BaseException] = []

    def store() -> None:
        try:
            stored.finish()
        except BaseException as error:
            failures.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=store)
    with transaction.atomic(using=alias()):
        if ends == "cleaned":
            repository.begin_cleaning()
        else:
            record_disconnection(repository, using=alias())
        thread.start()
        wait_for_a_waiting_session()
        if ends == "cleaned":
            StoredPack.objects.leave(Q(repository_id=repository.pk))
        else:
            CodeRepository.objects.filter(pk=repository.pk).update(clone_status=CloneStatus.CLEANED)
    thread.join()

    assert not failures
    assert not StoredPack.objects.present().exists()


def wait_for_a_waiting_session() -> None:
    """Wait until another session waits for a lock of this one."""
    deadline = time.monotonic() + 10
    with connections[alias()].cursor() as cursor:
        while time.monotonic() < deadline:
            cursor.execute("SELECT pg_stat_clear_snapshot()")
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            if cursor.fetchone()[0]:
                return
            time.sleep(0.02)
    raise AssertionError("nobody waits")


def test_two_deletions(root: Any) -> None:
    """One of them deletes it, and the trail has one entry."""
    for _ in range(ROUNDS):
        repository = completed()

        outcomes = at_once(root, repository, services.disconnect_repository, services.disconnect_repository)

        assert outcomes.count("done") == 1
        assert set(outcomes) <= {"done", "not_found", "database_busy"}
        assert AuditEntry.objects.filter(repository_id=repository.pk, event="disconnected").count() == 1
        assert not CodeRepository.objects.filter(pk=repository.pk).exists()


@pytest.mark.parametrize("name", ["clone_repository", "clean_repository", "cancel_repository"])
def test_deletion_and_any_other_call(root: Any, name: str) -> None:
    """The deletion wins, or says that it did not; no job of what is gone waits."""
    for _ in range(ROUNDS):
        repository = completed()
        if name == "cancel_repository":
            Job.objects.create(repository=repository, kind="UPDATE")

        outcomes = at_once(root, repository, services.disconnect_repository, getattr(services, name))

        assert outcomes[0] in ("done", "database_busy")
        assert outcomes[1] != "died"
        is_gone = not CodeRepository.objects.filter(pk=repository.pk).exists()
        assert is_gone is (outcomes[0] == "done")
        assert not (is_gone and Job.objects.filter(repository_id=repository.pk, state__in=UNFINISHED).exists())
