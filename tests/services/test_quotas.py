"""No project, user or site has more than its limits allow, however many calls come at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.db import transaction
from django.db.models.functions import Now
from pytest_django import Settings

from coderepos import services
from coderepos.exceptions import (
    DatabaseBusy,
    QuotaExceeded,
    RepositoryTooLarge,
    StorageQuotaExceeded,
    TooManyJobs,
    TooManyProbes,
    TooManyRepositories,
)
from coderepos.git.probe import probe as probe_of_git
from coderepos.limits import Limits, Quota
from coderepos.models import CloneStatus, CodeRepository, Flow, Job, JobState, Node, ProbeSlot, locking
from coderepos.projects.models import Project
from coderepos.services.repositories import connecting, probing
from coderepos.services.repositories.quotas import Allowance
from tests.support.database import ALIAS, connection
from tests.support.git import make_repository
from tests.support.servers.git_http_backend import GitServer
from tests.support.site import ADDRESS, Site

pytestmark = pytest.mark.django_db(transaction=True)
NAMES = ("one", "two", "three", "four")
chosen: dict[str, Any] = {}
"""What :func:`limits` returns, beside the flow."""


def limits(project: Any, user: Any) -> Limits:
    """Return the limits of the test; what ``LIMITS`` names."""
    return Limits(flow=f"tenant of {project.pk}", **chosen)


@pytest.fixture
def owner() -> User:
    """A user who may do everything."""
    return User.objects.create_superuser("owner")


@pytest.fixture
def project() -> Project:
    """A project."""
    return Project.objects.create(name="engine")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    """A Git server with four public repositories."""
    for name in NAMES:
        make_repository(tmp_path / "remote" / name)
    with GitServer(tmp_path / "remote") as started:
        yield started


@pytest.fixture
def site(settings: Settings, owner: User, project: Project, server: GitServer, tmp_path: Path) -> Iterator[Site]:
    """The API, with limits of the test's own."""
    site = Site(settings, owner, project)
    site.trust(server, LIMITS=f"{__name__}.limits", SANDBOX_BASE_PATH=str(tmp_path / "repos"))
    yield site
    chosen.clear()


QUOTAS = [
    (Quota(repositories=2), "too_many_repositories", 409),
    (Quota(size_bytes=15_000), "storage_quota_exceeded", 409),
    (Quota(unfinished_jobs=2), "too_many_jobs", 429),
    (Quota(probes=0), "too_many_probes", 429),
]


@pytest.mark.parametrize("scope", ["project", "user"])
@pytest.mark.parametrize(("quota", "code", "status"), QUOTAS, ids=[code for _, code, _ in QUOTAS])
def test_call_beyond_a_quota_is_refused(
    site: Site, server: GitServer, scope: str, quota: Quota, code: str, status: int
) -> None:
    """The answer says whose limit it is, what it is, and when to try again where that helps."""
    for name in ("one", "two"):
        site.connected(server.url(name))
    CodeRepository.objects.update(repository_size_mb="0.01")
    chosen[scope] = quota

    answer = site.connect(server.url("three"))

    detail = answer.json()["detail"]
    assert (answer.status_code, detail["error"], detail["scope"]) == (status, code, scope)
    assert detail["figure"] > detail["limit"]
    assert ("Retry-After" in answer) == (status == 429)
    assert CodeRepository.objects.count() == 2


def test_repository_beyond_every_disk_is_refused(site: Site, server: GitServer, owner: User) -> None:
    """A call for what no machine could ever hold stores nothing; one machine that is not measured yet may hold it."""
    node = Node.objects.create(name="small", disk_budget_bytes=100, disk_measured_at=Now())
    Node.objects.create(name="new")
    repository = CodeRepository.objects.get(pk=site.connected(server.url("one")))
    Job.objects.update(state=JobState.FAILED)
    CodeRepository.objects.update(clone_status=CloneStatus.FAILED)

    Node.objects.exclude(pk=node.pk).delete()
    answer = site.connect(server.url("two"))

    detail = answer.json()["detail"]
    assert (answer.status_code, detail["error"]) == (413, "repository_too_large")
    assert detail["estimated_size_mb"] > detail["limit_mb"]
    assert "no machine of this site" in detail["message"]
    assert CodeRepository.objects.count() == 1
    with pytest.raises(RepositoryTooLarge):
        services.change_repository(user=owner, repository=repository, depth=1)


def test_refusal_before_a_host_is_asked_costs_nothing(site: Site, server: GitServer, settings: Settings) -> None:
    """Neither the user nor the project; a probe that failed at its host does, and refusals have their own bound."""
    cache.clear()
    site.trust(server, LIMITS=f"{__name__}.limits", CONNECT_RATE_PER_USER="2/day", CONNECT_RATE_PER_PROJECT="2/day")
    chosen["user"] = Quota(probes=0)
    bad = {"depth": 0}
    refused = [site.connect(server.url("one"), **(bad if number % 2 else {})).status_code for number in range(19)]
    assert refused == [429, 400] * 9 + [429]
    chosen.clear()

    assert site.connect(server.url("missing")).status_code == 422
    assert site.connect(server.url("one")).status_code == 201
    last = site.connect(server.url("two"))
    assert (last.status_code, last.json()["detail"]["error"]) == (429, "throttled")

    cache.clear()
    codes = [site.connect(server.url("one")).json()["detail"]["error"] for _ in range(21)]
    assert codes == ["already_connected"] * 20 + ["throttled"]
    assert 0 < int(site.connect(server.url("two"))["Retry-After"]) <= 86_400
    cache.clear()


def test_cleaning_makes_room_in_the_quota(site: Site, server: GitServer, owner: User) -> None:
    """As the refusal advises; what was cleaned has to find room once more before it is cloned again."""
    cleaned = site.connected(server.url("one"))
    assert site.work(cleaned) == "succeeded"
    CodeRepository.objects.update(repository_size_mb="0.1", estimated_size_mb="0.1")
    chosen["project"] = Quota(size_bytes=150_000)
    assert site.connect(server.url("two")).json()["detail"]["error"] == "storage_quota_exceeded"

    CodeRepository.objects.update(clone_status=CloneStatus.CLEANED)

    other = site.connected(server.url("two"))
    CodeRepository.objects.filter(pk=other).update(estimated_size_mb="0.1")
    refused = site.client.post(f"{ADDRESS}/repos/{cleaned}/clone")
    assert (refused.status_code, refused.json()["detail"]["error"]) == (409, "storage_quota_exceeded")
    assert CodeRepository.objects.get(pk=cleaned).clone_status == CloneStatus.CLEANED
    chosen["project"] = Quota(size_bytes=250_000)
    assert site.client.post(f"{ADDRESS}/repos/{cleaned}/clone").status_code == 202


def test_another_clone_counts_as_a_job(site: Site, server: GitServer, owner: User) -> None:
    """A repository that is there may be cloned again only while its project may have another job."""
    repo_id = site.connected(server.url("one"))
    assert site.work(repo_id) == "succeeded"
    repository = CodeRepository.objects.get(pk=repo_id)
    chosen["project"] = Quota(unfinished_jobs=1)
    site.connected(server.url("two"))

    with pytest.raises(TooManyJobs):
        services.clone_repository(user=owner, repository=repository)
    with pytest.raises(TooManyJobs):
        services.change_repository(user=owner, repository=repository, depth=1)
    Job.objects.update(state=JobState.SUCCEEDED)

    assert services.clone_repository(user=owner, repository=repository).state == JobState.QUEUED


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one lock for all")
def test_call_for_another_repository_is_no_work_on_this_one(
    site: Site, server: GitServer, owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction of the host's that has queued a clone holds up calls for its project; their answer says no more."""
    monkeypatch.setattr(locking, "WAIT_SECONDS", 1)
    repositories = [CodeRepository.objects.get(pk=site.connected(server.url(name))) for name in NAMES[:2]]
    CodeRepository.objects.update(clone_status="FAILED")
    Job.objects.update(state=JobState.FAILED)

    def clone_another() -> None:
        try:
            with pytest.raises(DatabaseBusy):
                services.clone_repository(user=owner, repository=repositories[1])
        finally:
            connection.close()

    with transaction.atomic(using=ALIAS), ThreadPoolExecutor(1) as pool:
        services.clone_repository(user=owner, repository=repositories[0])
        pool.submit(clone_another).result(10)


@pytest.mark.parametrize("scope", ["project", "user"])
def test_change_passes_no_quota_of_bytes(site: Site, server: GitServer, owner: User, scope: str) -> None:
    """A repository that was connected with little of its history does not grow past it; one that shrinks may."""
    repo_id = site.connected(server.url("one"))
    assert site.work(repo_id) == "succeeded"
    repository = CodeRepository.objects.get(pk=repo_id)
    chosen[scope] = Quota(size_bytes=500)
    CodeRepository.objects.update(repository_size_mb=0)
    with pytest.raises(StorageQuotaExceeded):
        services.change_repository(user=owner, repository=repository, depth=2)
    assert not Job.objects.unfinished().exists()

    CodeRepository.objects.update(repository_size_mb="9")

    assert services.change_repository(user=owner, repository=repository, depth=1).state == JobState.QUEUED


def test_changes_pass_no_quota_together(site: Site, server: GitServer, owner: User) -> None:
    """What was changed counts as it is going to be, also where its clone was cancelled, until another is published."""
    ids = [site.connected(server.url(name)) for name in ("one", "two")]
    assert [site.work(repo_id) for repo_id in ids] == ["succeeded"] * 2
    one, two = CodeRepository.objects.order_by("created_at")
    CodeRepository.objects.update(repository_size_mb=0)
    chosen["project"] = Quota(size_bytes=150_000)  # an estimate is rounded up to 100,000

    services.change_repository(user=owner, repository=one, depth=1)
    services.cancel_repository(user=owner, repository=one)
    with pytest.raises(StorageQuotaExceeded):
        services.change_repository(user=owner, repository=two, depth=1)
    assert (two.jobs.unfinished().count(), CodeRepository.objects.get(pk=two.pk).depth) == (0, None)

    services.clone_repository(user=owner, repository=one)
    assert site.work(str(one.pk)) == "succeeded"
    CodeRepository.objects.update(repository_size_mb=0)
    services.change_repository(user=owner, repository=two, depth=1)


def test_shares_of_a_tenant_reach_its_flow(site: Site, server: GitServer, project: Project) -> None:
    """Weight and slots are those of the last job that was queued."""
    for share in ({"weight": 2.0, "slots": 3}, {"weight": 0.5}):
        chosen.update(slots=None)
        chosen.update(share)
        site.connected(server.url(NAMES[Job.objects.count()]))

        flow = Flow.objects.get()
        assert (flow.pk, flow.weight, flow.slots) == (f"tenant of {project.pk}", share["weight"], share.get("slots"))


def at_once(number: int, work: Callable[[int], Any]) -> list[Any]:
    """Call ``work`` in threads that start together, and return what it returns or raises."""
    start = threading.Barrier(number)

    def run(index: int) -> Any:
        try:
            start.wait()
            return work(index)
        except Exception as error:
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(run, range(number)))


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one writer at a time")
@pytest.mark.parametrize(
    ("quota", "error"),
    [
        (Quota(repositories=2), TooManyRepositories),
        (Quota(unfinished_jobs=2), TooManyJobs),
        (Quota(size_bytes=50_000), StorageQuotaExceeded),
    ],
)
def test_calls_at_once_do_not_pass_together(
    site: Site,
    server: GitServer,
    owner: User,
    project: Project,
    quota: Quota,
    error: type[QuotaExceeded],
    *,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each sees no other before it asks the Git host, and the limit holds all the same."""
    chosen["project"] = quota
    asked = threading.Barrier(4, timeout=30)
    original = probe_of_git

    def probe(*arguments: Any, **named: Any) -> Any:
        report = original(*arguments, **named)
        asked.wait()
        return report

    monkeypatch.setattr(connecting, "probe", probe)
    outcomes = at_once(
        4,
        lambda index: services.connect_repository(
            user=owner, project_id=str(project.pk), git_url=server.url(NAMES[index])
        ),
    )

    refused = [one for one in outcomes if isinstance(one, Exception)]
    assert {type(one) for one in refused} == {error}
    assert CodeRepository.objects.count() == Job.objects.count() == 4 - len(refused)
    if quota.size_bytes is None:
        assert len(refused) == 2


def allowance(**quotas: Any) -> Allowance:
    """Return what a project may use."""
    return Allowance(limits=Limits(flow="x", **quotas), project_id=1, user_id=1)


def test_slots_of_probes_hold_and_come_back(settings: Settings) -> None:
    """No more probes than slots at once; the end of one, or the death of its process, makes room."""
    settings.CODEREPOS = {**settings.CODEREPOS, "MAX_PROBES": 2}
    everybody = allowance(project=Quota(), user=Quota())

    with probing.slot(everybody), probing.slot(everybody):
        with pytest.raises(TooManyProbes) as caught, probing.slot(everybody):
            pass
        assert caught.value.fields["retry_after_seconds"] == 5
        ProbeSlot.objects.filter(number=0).update(until=Now() - timedelta(seconds=1))
        with probing.slot(everybody):
            assert ProbeSlot.objects.count() == 2
    assert not ProbeSlot.objects.exclude(token=None).exists()


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one writer at a time")
@pytest.mark.parametrize("scope", ["site", "project", "user"])
def test_slots_hold_while_sixteen_ask(settings: Settings, scope: str) -> None:
    """Of sixteen calls at once exactly as many pass as there are slots, for the site and for each tenant."""
    settings.CODEREPOS = {**settings.CODEREPOS, "MAX_PROBES": 3 if scope == "site" else 16}
    quotas = {"project": Quota(), "user": Quota(), scope: Quota(probes=3)}
    quotas.pop("site", None)
    done = threading.Event()
    refused: list[int] = []

    def ask(index: int) -> str:
        try:
            with probing.slot(allowance(**quotas)):
                connection.close()
                assert done.wait(30)
                return "passed"
        except TooManyProbes:
            refused.append(index)
            return "refused"
        finally:
            if len(refused) == 13:
                done.set()

    outcomes = at_once(16, ask)

    assert sorted(map(str, outcomes)) == ["passed"] * 3 + ["refused"] * 13


def test_request_that_waits_for_a_host_holds_no_connection(
    site: Site, server: GitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an open one nor a transaction; callers in Python keep theirs, with its cursors."""
    seen: list[bool] = []
    original = probe_of_git

    def probe(*arguments: Any, **named: Any) -> Any:
        seen.append(connection.connection is None)
        return original(*arguments, **named)

    monkeypatch.setattr(connecting, "probe", probe)

    site.connected(server.url("one"))

    assert seen == [True]
