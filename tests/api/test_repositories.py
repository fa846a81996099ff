"""Reading repositories: details, lists, history; who sees what, and at what cost."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test.utils import CaptureQueriesContext
from pytest_django import DjangoAssertNumQueries, Settings
from rest_framework.test import APIClient

from coderepos.api.pagination import KeysetPagination
from coderepos.models import CloneStatus, CodeRepository, Job, JobKind, JobState, ProjectMembership, Purge, Role
from coderepos.projects.models import Project
from tests.api.conftest import ADDRESS, TOKEN, ClientOf, MakeRepository
from tests.support.database import connection

NOON = datetime(2024, 1, 15, 12, 0, 0, 987654, tzinfo=UTC)


def ids(response: Any) -> list[str]:
    """Return the ids on a page."""
    return [row["repo_id"] for row in response.json()["results"]]


def test_details_have_all_that_is_useful_and_nothing_that_is_secret(
    api: APIClient, developer: User, make_repository: MakeRepository
) -> None:
    """The details name every fact about a repository, sizes as numbers, times in UTC, and no token or its key."""
    repository = make_repository(
        ref="main",
        depth=3,
        username="bot",
        clone_status=CloneStatus.COMPLETED,
        estimated_size_mb=Decimal("25.60"),
        repository_size_mb=Decimal("28.40"),
        sandbox_path="/tmp/repos/p/r/repository",
        commit_id="a" * 40,
        ref_name="refs/heads/main",
        substitutions={"symlink": 2},
        substituted_paths=["symlink: out"],
        connected_by=developer,
        cloned_at=NOON,
        created_at=NOON,
        updated_at=NOON,
    )

    response = api.get(f"{ADDRESS}/repos/{repository.pk}")

    assert response.status_code == 200
    assert response.json() == {
        "repo_id": str(repository.pk),
        "project_id": str(repository.project_id),
        "git_url": repository.git_url,
        "platform": "github",
        "ref": "main",
        "ref_name": "refs/heads/main",
        "commit_id": "a" * 40,
        "substitutions": {"symlink": 2},
        "substituted_paths": ["symlink: out"],
        "depth": 3,
        "username": "bot",
        "clone_status": "COMPLETED",
        "estimated_size_mb": 25.6,
        "size_source": "probe",
        "repository_size_mb": 28.4,
        "sandbox_path": "/tmp/repos/p/r/repository",
        "token_status": "unknown",
        "token_expires_at": None,
        "error_code": None,
        "error_message": None,
        "retryable": False,
        "connected_by": developer.get_username(),
        "cloned_at": "2024-01-15T12:00:00Z",
        "created_at": "2024-01-15T12:00:00Z",
        "updated_at": "2024-01-15T12:00:00Z",
    }
    assert TOKEN not in response.content.decode()
    assert repository.token_kid not in response.content.decode()


def test_unknown_figures_are_null(api: APIClient, repository: CodeRepository) -> None:
    """What is not known yet is null, not an empty string or a zero."""
    details = api.get(f"{ADDRESS}/repos/{repository.pk}").json()

    names = ("repository_size_mb", "sandbox_path", "commit_id", "ref_name", "cloned_at", "depth", "connected_by")
    assert {details[name] for name in names} == {None}


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kathmandu", "UTC"])
def test_times_do_not_depend_on_the_host(
    api: APIClient, make_repository: MakeRepository, settings: Settings, zone: str
) -> None:
    """The same instant has the same text under every TIME_ZONE, and whatever the host's formats are."""
    settings.TIME_ZONE = zone
    settings.REST_FRAMEWORK = {
        **settings.REST_FRAMEWORK,
        "DATETIME_FORMAT": "%d.%m.%Y",
        "COERCE_DECIMAL_TO_STRING": True,
    }
    repository = make_repository(created_at=NOON, repository_size_mb=Decimal("1.50"))

    details = api.get(f"{ADDRESS}/repos/{repository.pk}").json()

    assert details["created_at"] == "2024-01-15T12:00:00Z"
    assert details["repository_size_mb"] == 1.5


def test_upper_case_id_is_the_same_id(api: APIClient, repository: CodeRepository) -> None:
    """RFC 9562 has no upper case, but asks to read it."""
    assert api.get(f"{ADDRESS}/repos/{str(repository.pk).upper()}").json()["repo_id"] == str(repository.pk)


@pytest.mark.parametrize("form", ["{0.hex}", "{{{0}}}", "urn:uuid:{0}", "{0}-"])
def test_an_id_has_one_form(api: APIClient, repository: CodeRepository, form: str) -> None:
    """Other ways to write an id that exists are not addresses of it."""
    assert api.get(f"{ADDRESS}/repos/{form.format(repository.pk)}").status_code == 404


@pytest.mark.parametrize("rest", ["", "/status", "/jobs"])
def test_foreign_repositories_look_unknown(
    api: APIClient, other_project: Project, make_repository: MakeRepository, rest: str
) -> None:
    """A repository of somebody else's project is the same 404 as none."""
    foreign = api.get(f"{ADDRESS}/repos/{make_repository(project=other_project).pk}{rest}")
    unknown = api.get(f"{ADDRESS}/repos/{uuid.uuid4()}{rest}")

    assert foreign.status_code == unknown.status_code == 404
    assert foreign.content == unknown.content


def test_lists_hold_what_the_caller_may_see(
    client_of: ClientOf,
    viewer: User,
    project: Project,
    other_project: Project,
    make_repository: MakeRepository,
    django_user_model: type[User],
) -> None:
    """A member sees the repositories of their projects, a superuser all, a stranger none."""
    mine, theirs = make_repository(), make_repository(project=other_project)
    superuser = django_user_model.objects.create_superuser("root")
    stranger = django_user_model.objects.create_user("stranger")

    assert ids(client_of(viewer).get(f"{ADDRESS}/repos")) == [str(mine.pk)]
    assert set(ids(client_of(superuser).get(f"{ADDRESS}/repos"))) == {str(mine.pk), str(theirs.pk)}
    assert ids(client_of(stranger).get(f"{ADDRESS}/repos")) == []
    assert ids(client_of(viewer).get(f"{ADDRESS}/projects/{project.pk}/repos")) == [str(mine.pk)]


def test_list_of_a_project_holds_that_project_alone(
    api: APIClient, developer: User, other_project: Project, project: Project, make_repository: MakeRepository
) -> None:
    """Who is a member of two projects gets each list apart."""
    ProjectMembership.objects.create(project=other_project, user=developer)
    one, two = make_repository(), make_repository(project=other_project)

    assert ids(api.get(f"{ADDRESS}/projects/{project.pk}/repos")) == [str(one.pk)]
    assert ids(api.get(f"{ADDRESS}/repos?project={other_project.pk}")) == [str(two.pk)]
    assert ids(api.get(f"{ADDRESS}/projects/{project.pk}/repos?project={other_project.pk}")) == [str(one.pk)]


def test_rows_of_a_list_are_the_details(api: APIClient, repository: CodeRepository) -> None:
    """A row of a list says no less than the address of the repository itself."""
    [row] = api.get(f"{ADDRESS}/repos").json()["results"]

    assert row == api.get(f"{ADDRESS}/repos/{repository.pk}").json()


def test_filters(api: APIClient, make_repository: MakeRepository) -> None:
    """Status, platform and a part of the URL narrow the list, alone and together; empty values do not."""
    failed = make_repository(clone_status=CloneStatus.FAILED, platform="gitlab", git_url="https://gitlab.com/Ab/c_d")
    make_repository(clone_status=CloneStatus.FAILED)
    make_repository(platform="gitlab", git_url="https://gitlab.com/ab/cxd")

    def count(query: str) -> int:
        return len(ids(api.get(f"{ADDRESS}/repos?{query}")))

    assert (count("status=FAILED"), count("platform=gitlab"), count("search=GITLAB")) == (2, 2, 2)
    assert ids(api.get(f"{ADDRESS}/repos?status=FAILED&platform=gitlab")) == [str(failed.pk)]
    assert ids(api.get(f"{ADDRESS}/repos?search=c_D")) == [str(failed.pk)]
    assert count("status=&platform=&search=&ordering=&project=") == 3
    assert (count("search=%25"), count("status=CLEANED")) == (0, 0)


@pytest.mark.parametrize(
    ("ordering", "expected"),
    [
        ("", "cba"),
        ("created_at", "abc"),
        ("-created_at", "cba"),
        ("git_url", "cab"),
        ("-git_url", "bac"),
        ("repository_size_mb", "bac"),
        ("-repository_size_mb", "abc"),
        ("clone_status", "bca"),
        ("-updated_at", "acb"),
    ],
)
def test_orders(api: APIClient, make_repository: MakeRepository, ordering: str, expected: str) -> None:
    """Each allowed order holds, unknown sizes come last, and the newest come first without one."""
    rows: dict[str, dict[str, Any]] = {
        "a": {"git_url": "https://b.org/1", "repository_size_mb": Decimal(9), "clone_status": "PENDING"},
        "b": {"git_url": "https://c.org/1", "repository_size_mb": Decimal(1), "clone_status": "COMPLETED"},
        "c": {"git_url": "https://a.org/1", "repository_size_mb": None, "clone_status": "FAILED"},
    }
    updated = {"a": 3, "b": 1, "c": 2}
    names = {
        str(
            make_repository(
                created_at=NOON + timedelta(hours=hour), updated_at=NOON + timedelta(hours=updated[name]), **row
            ).pk
        ): name
        for hour, (name, row) in enumerate(rows.items())
    }

    assert "".join(names[key] for key in ids(api.get(f"{ADDRESS}/repos?ordering={ordering}"))) == expected


@pytest.mark.parametrize(
    "query",
    [
        "status=completed",
        "status=ghp_secret",
        "platform=svn",
        "ordering=token_kid",
        "ordering=project__name",
        "ordering=--created_at",
        "search=%00",
        "search=a%0ab",
        f"search={'x' * 201}",
    ],
)
def test_bad_filters_are_a_400(api: APIClient, project: Project, query: str) -> None:
    """A value that cannot be meant is refused under its name, without a word of what was sent."""
    for path in (f"/repos?{query}", f"/projects/{project.pk}/repos?{query}"):
        response = api.get(ADDRESS + path)

        assert response.status_code == 400
        detail = response.json()["detail"]
        assert detail["error"] == "invalid_request"
        assert list(detail["fields"]) == [query.partition("=")[0]]
        assert "ghp_secret" not in json.dumps(detail)


def test_pages(api: APIClient, make_repository: MakeRepository) -> None:
    """Pages have a bounded size and lead on to each other; all rows come once, whatever the ties."""
    made = {str(make_repository(created_at=NOON).pk) for _ in range(5)}

    first = api.get(f"{ADDRESS}/repos?page_size=2").json()
    seen = ids(api.get(f"{ADDRESS}/repos?page_size=2"))
    following = first["next"]
    while following:
        page = api.get(following)
        seen += ids(page)
        following = page.json()["next"]

    assert (first["count"], first["previous"]) == (5, None)
    assert len(seen) == 5
    assert set(seen) == made
    assert len(ids(api.get(f"{ADDRESS}/repos?page_size=100000"))) == 5
    assert api.get(f"{ADDRESS}/repos?page=9").status_code == 404
    assert api.get(f"{ADDRESS}/repos?page=x").json()["detail"]["error"] == "not_found"


def test_page_size_has_a_bound() -> None:
    """Nobody makes us read more than 200 rows at once."""
    assert KeysetPagination.max_page_size == 200


@pytest.mark.parametrize("path", ["/repos", "/projects/{project}/repos", "/repos/{repository}/jobs"])
@pytest.mark.parametrize("rows", [1, 30])
def test_lists_cost_the_same_whatever_their_length(
    developer: User,
    project: Project,
    make_repository: MakeRepository,
    django_assert_num_queries: DjangoAssertNumQueries,
    path: str,
    rows: int,
) -> None:
    """One query counts, one reads the page; one more finds the project or the repository in the path."""
    repository = make_repository(connected_by=developer)
    if path.endswith("/jobs"):
        Job.objects.bulk_create(Job(repository=repository, state=JobState.FAILED) for _ in range(rows))
    else:
        for _ in range(rows - 1):
            make_repository(connected_by=developer)
    api = APIClient()
    api.force_authenticate(developer)

    with django_assert_num_queries(2 if path == "/repos" else 3):
        page = api.get(ADDRESS + path.format(project=project.pk, repository=repository.pk)).json()

    assert page["count"] == len(page["results"]) == rows


@pytest.mark.parametrize("path", ["/repos", "/repos/{repository}", "/repos/{repository}/status"])
def test_reading_never_loads_a_token(developer: User, repository: CodeRepository, path: str) -> None:
    """No statement of a read names the column of the sealed token."""
    Job.objects.create(repository=repository)
    api = APIClient()
    api.force_authenticate(developer)

    with CaptureQueriesContext(connection) as queries:
        assert api.get(ADDRESS + path.format(repository=repository.pk)).status_code == 200

    assert any("code_repos" in query["sql"] for query in queries)
    assert not [query["sql"] for query in queries if "token_ciphertext" in query["sql"]]


@pytest.mark.parametrize("path", ["/repos/{repository}", "/repos/{repository}/status"])
def test_details_cost_few_queries(
    developer: User,
    repository: CodeRepository,
    django_assert_max_num_queries: DjangoAssertNumQueries,
    path: str,
) -> None:
    """The details take one query, the status three: repository, latest job, jobs ahead."""
    Job.objects.create(repository=repository)
    api = APIClient()
    api.force_authenticate(developer)

    with django_assert_max_num_queries(3 if path.endswith("/status") else 1):
        assert api.get(ADDRESS + path.format(repository=repository.pk)).status_code == 200


def test_history(api: APIClient, repository: CodeRepository) -> None:
    """The history has every job of the repository, the newest first, with what it counted."""
    Job.objects.create(
        repository=repository,
        state=JobState.FAILED,
        attempt=4,
        error_code="remote_unreachable",
        error_message="The Git host cannot be reached.",
        created_at=NOON,
    )
    job = Job.objects.create(
        repository=repository,
        kind=JobKind.CLONE,
        state=JobState.SUCCEEDED,
        attempt=1,
        bytes_received=12_345_678,
        isolation_level=3,
        result={"objects": 10, "substitutions": {"symlink": 1}},
        created_at=NOON + timedelta(hours=1),
        started_at=NOON + timedelta(hours=1, seconds=1),
        finished_at=NOON + timedelta(hours=1, seconds=9),
    )

    newest, oldest = api.get(f"{ADDRESS}/repos/{repository.pk}/jobs").json()["results"]

    assert newest == {
        "task_id": str(job.pk),
        "kind": "CLONE",
        "state": "SUCCEEDED",
        "attempt": 1,
        "max_attempts": 4,
        "next_attempt_at": None,
        "received_mb": 12.3,
        "isolation_level": 3,
        "result": {"objects": 10, "substitutions": {"symlink": 1}},
        "error_code": None,
        "error_message": None,
        "created_at": "2024-01-15T13:00:00Z",
        "started_at": "2024-01-15T13:00:01Z",
        "finished_at": "2024-01-15T13:00:09Z",
    }
    assert (oldest["error_code"], oldest["attempt"]) == ("remote_unreachable", 4)


def test_clone_again(api: APIClient, make_repository: MakeRepository) -> None:
    """A failed repository is queued again and waits, its failure forgotten."""
    repository = make_repository(clone_status=CloneStatus.FAILED, error_code="remote_timeout", error_message="Late.")

    response = api.post(f"{ADDRESS}/repos/{repository.pk}/clone")

    job = Job.objects.get()
    assert response.status_code == 202
    assert response.json() == {"repo_id": str(repository.pk), "task_id": str(job.pk), "clone_status": "PENDING"}
    assert api.get(f"{ADDRESS}/repos/{repository.pk}").json()["error_code"] is None


def test_complete_repository_is_cloned_again_and_stays_complete(
    api: APIClient, make_repository: MakeRepository
) -> None:
    """The version that readers have stays while another one is made, and a second request has to wait."""
    repository = make_repository(clone_status=CloneStatus.COMPLETED, sandbox_path="/s", version="one")
    address = f"{ADDRESS}/repos/{repository.pk}"

    response = api.post(f"{address}/clone")

    job = Job.objects.get()
    assert response.status_code == 202
    assert response.json() == {"repo_id": str(repository.pk), "task_id": str(job.pk), "clone_status": "COMPLETED"}
    assert api.get(address).json()["sandbox_path"] == "/s"
    again = api.post(f"{address}/clone")
    assert (again.status_code, again.json()["detail"]["error"]) == (409, "job_running")
    assert Job.objects.get() == job


def test_clone_of_a_repository_at_work_is_a_409(api: APIClient, make_repository: MakeRepository) -> None:
    """What waits, works or is being removed is not cloned again."""
    for status, code in (("PENDING", "job_running"), ("CLONING", "job_running"), ("CLEANING", "job_running")):
        response = api.post(f"{ADDRESS}/repos/{make_repository(clone_status=status).pk}/clone")

        assert response.status_code == 409
        assert response.json()["detail"]["error"] == code
    assert not Job.objects.exists()


def test_viewers_may_not_clone(client_of: ClientOf, viewer: User, make_repository: MakeRepository) -> None:
    """Who may see a repository but not clone it gets a 403; who may not see it a 404."""
    repository = make_repository(clone_status=CloneStatus.FAILED)
    stranger = User.objects.create_user("stranger")
    path = f"{ADDRESS}/repos/{repository.pk}/clone"

    assert client_of(viewer).post(path).json()["detail"]["error"] == "permission_denied"
    assert client_of(viewer).post(path).status_code == 403
    assert client_of(stranger).post(path).status_code == 404
    repository.refresh_from_db(fields=["clone_status"])
    assert repository.clone_status == "FAILED"


def test_body_of_a_clone_call_is_ignored(
    api: APIClient, make_repository: MakeRepository, other_project: Project
) -> None:
    """Nothing in the body moves a repository or sets its state."""
    repository = make_repository(clone_status=CloneStatus.CLEANED)
    body = {"project_id": str(other_project.pk), "clone_status": "COMPLETED", "git_url": "https://evil.example/a/b"}

    assert api.post(f"{ADDRESS}/repos/{repository.pk}/clone", body, format="json").status_code == 202

    stored = CodeRepository.objects.get()
    assert (stored.project_id, stored.git_url, stored.clone_status) == (
        repository.project_id,
        repository.git_url,
        "PENDING",
    )


@pytest.mark.parametrize(
    "path", ["/repos", "/repos/{id}", "/repos/{id}/status", "/repos/{id}/jobs", "/repos/{id}/clone", "/connect"]
)
def test_addresses_have_a_page_for_browsers(
    api: APIClient, make_repository: MakeRepository, settings: Settings, path: str
) -> None:
    """Every address can be looked at in a browser, without the token anywhere."""
    repository = make_repository(clone_status=CloneStatus.FAILED)
    Job.objects.create(repository=repository, state=JobState.FAILED)
    response = api.get(ADDRESS + path.format(id=repository.pk), headers={"accept": "text/html"})

    assert response.status_code == (405 if path.endswith(("/clone", "/connect")) else 200)
    assert response["Content-Type"].startswith("text/html")
    assert TOKEN not in response.content.decode()


def test_paths_end_without_a_slash(api: APIClient, repository: CodeRepository) -> None:
    """The addresses are those of the description; with a slash behind there is nothing."""
    assert api.get(f"{ADDRESS}/repos").status_code == 200
    assert api.get(f"{ADDRESS}/repos/").status_code == 404
    assert api.get(f"{ADDRESS}/repos/{repository.pk}/status/").status_code == 404


def test_cancel_ends_the_job(api: APIClient, make_repository: MakeRepository) -> None:
    """The answer names the job and the state; a second call finds nothing to cancel."""
    repository = make_repository(clone_status=CloneStatus.PENDING)
    job = Job.objects.create(repository=repository)
    path = f"{ADDRESS}/repos/{repository.pk}/cancel"

    response = api.post(path)

    assert response.status_code == 202
    assert response.json() == {"repo_id": str(repository.pk), "task_id": str(job.pk), "clone_status": "FAILED"}
    again = api.post(path)
    assert (again.status_code, again.json()["detail"]["error"]) == (409, "invalid_state")


def test_viewers_may_not_cancel(client_of: ClientOf, viewer: User, make_repository: MakeRepository) -> None:
    """Who may see a repository but not change it gets a 403; who may not see it a 404."""
    job = Job.objects.create(repository=make_repository())
    path = f"{ADDRESS}/repos/{job.repository_id}/cancel"

    assert client_of(viewer).post(path).status_code == 403
    assert client_of(User.objects.create_user("a-stranger")).post(path).status_code == 404
    job.refresh_from_db()
    assert job.state == "QUEUED"


def test_maintainers_clean_and_delete(client_of: ClientOf, make_repository: MakeRepository) -> None:
    """The answers say what is under way, and afterwards that it is gone."""
    repository = make_repository(clone_status=CloneStatus.COMPLETED, sandbox_path="/s", version="one", node="here")
    maintainer = User.objects.create_user("maintainer")
    ProjectMembership.objects.create(project=repository.project, user=maintainer, role=Role.MAINTAINER)
    client, path = client_of(maintainer), f"{ADDRESS}/repos/{repository.pk}"

    cleaned = client.post(f"{path}/clean")
    assert (cleaned.status_code, cleaned.json()) == (202, {"repo_id": str(repository.pk), "clone_status": "CLEANING"})
    assert client.get(path).json()["sandbox_path"] is None
    assert client.post(f"{path}/clean").json()["detail"]["error"] == "job_running"

    deleted = client.delete(path)
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert client.get(path).status_code == client.delete(path).status_code == 404
    assert set(Purge.objects.values_list("repository_id", "node")) == {(repository.pk, "here")}


@pytest.mark.parametrize(("method", "path"), [("post", "/clean"), ("delete", "")])
def test_developers_neither_clean_nor_delete(
    api: APIClient, client_of: ClientOf, make_repository: MakeRepository, method: str, path: str
) -> None:
    """It takes a maintainer; who may not see the repository gets a 404."""
    repository = make_repository(clone_status=CloneStatus.COMPLETED)
    address = f"{ADDRESS}/repos/{repository.pk}{path}"

    assert getattr(api, method)(address).json()["detail"]["error"] == "permission_denied"
    assert getattr(client_of(User.objects.create_user("a-stranger")), method)(address).status_code == 404
    repository.refresh_from_db()
    assert repository.clone_status == CloneStatus.COMPLETED
