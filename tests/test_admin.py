"""The admin: what shows, what can be done, and that no token is ever read for it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.db.models.functions import Now
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from coderepos.admin import repository_actions
from coderepos.crypto.secret import Secret
from coderepos.exceptions import InternalError
from coderepos.models import (
    AuditEntry,
    AuditEvent,
    CloneStatus,
    CodeRepository,
    Job,
    JobState,
    LeaseLost,
    Node,
    ProjectMembership,
    Purge,
    Role,
)
from coderepos.projects.models import Project
from tests.support.database import connection

TOKEN = "ghp_NobodyMayEverReadThis0123456789abcd"
MODELS = {
    "auditentry": "coderepos",
    "coderepository": "coderepos",
    "job": "coderepos",
    "node": "coderepos",
    "project": "coderepos_projects",
    "projectmembership": "coderepos",
}
READ_ONLY = ["auditentry", "coderepository", "job", "node"]

MakeRepository = Callable[..., CodeRepository]


@pytest.fixture
def project(db: None) -> Project:
    """A project."""
    return Project.objects.create(name="Rocket")


@pytest.fixture
def make_repository(project: Project) -> MakeRepository:
    """Return a maker of repositories with a token."""

    def make(**values: Any) -> CodeRepository:
        name = uuid.uuid4().hex[:8]
        return CodeRepository.objects.create(
            **{
                "project": project,
                "git_url": f"https://git.example.org/owner/{name}.git",
                "url_key": f"https://git.example.org/owner/{name}",
                "token_ciphertext": Secret(TOKEN),
                **values,
            }
        )

    return make


def fill(make_repository: MakeRepository, start: int, stop: int) -> None:
    """Make rows of everything that the admin lists, alike but for their names."""
    for number in range(start, stop):
        project = Project.objects.create(name=f"Project {number}")
        user = User.objects.create_user(f"user-{number}")
        ProjectMembership.objects.create(project=project, user=user, role=Role.VIEWER)
        repository = make_repository(project=project, connected_by=user)
        Job.objects.create(repository=repository)
        AuditEntry.objects.record(AuditEvent.CONNECTED, repository=repository, actor=user)
        Node.objects.create(name=f"node-{number}")


def page(client: Client, model: str, name: str = "changelist", *args: object) -> str:
    """Return a page of the admin."""
    response = client.get(reverse(f"admin:{MODELS[model]}_{model}_{name}", args=args))
    assert response.status_code == 200
    return response.content.decode()


@pytest.mark.parametrize("model", MODELS)
def test_lists_cost_the_same_whatever_their_length(
    admin_client: Client, make_repository: MakeRepository, model: str
) -> None:
    """A list of thirty rows takes the queries of a list of two."""
    fill(make_repository, 0, 2)
    with CaptureQueriesContext(connection) as of_two:
        page(admin_client, model)
    fill(make_repository, 2, 30)
    with CaptureQueriesContext(connection) as of_thirty:
        page(admin_client, model)

    assert len(of_two) == len(of_thirty) <= 15


@pytest.mark.parametrize("model", READ_ONLY)
def test_what_happens_is_not_edited_by_hand(admin_client: Client, make_repository: MakeRepository, model: str) -> None:
    """Superusers look at repositories, jobs and nodes, which they can't edit; only a repository can be deleted."""
    fill(make_repository, 0, 1)
    row = apps.get_model("coderepos", model)._default_manager.get()

    details = page(admin_client, model, "change", row.pk)

    assert 'name="_save"' not in details
    assert ("deletelink" in details) == (model == "coderepository")
    assert f"/{model}/add/" not in page(admin_client, model)
    for name, args in (("add", ()), ("change", (row.pk,)), ("delete", (row.pk,))):
        if (model, name) == ("coderepository", "delete"):
            continue
        address = reverse(f"admin:{MODELS[model]}_{model}_{name}", args=args)
        assert admin_client.post(address, {"git_url": "https://evil.example/a/b", "post": "yes"}).status_code == 403


@pytest.mark.parametrize("model", ["coderepository", "job"])
def test_no_page_reads_or_shows_a_token(admin_client: Client, make_repository: MakeRepository, model: str) -> None:
    """No statement names the column of the sealed token; the id of its key shows in the details alone."""
    repository = make_repository()
    job = Job.objects.create(repository=repository)

    with CaptureQueriesContext(connection) as queries:
        listed = page(admin_client, model)
        details = page(admin_client, model, "change", repository.pk if model == "coderepository" else job.pk)

    assert any("code_repos" in query["sql"] for query in queries)
    assert not [query["sql"] for query in queries if "token_ciphertext" in query["sql"]]
    assert TOKEN not in listed + details
    assert repository.token_kid not in listed
    assert (repository.token_kid in details) is (model == "coderepository")


def test_list_of_repositories_says_what_matters(admin_client: Client, make_repository: MakeRepository) -> None:
    """Host, ref, project, state, size, node and last error are seen at once."""
    make_repository(
        ref="release/9",
        node="worker-7",
        clone_status=CloneStatus.FAILED,
        error_code="remote_timeout",
        repository_size_mb=Decimal("28.40"),
    )
    make_repository(estimated_size_mb=Decimal("7.50"))
    make_repository()

    listed = page(admin_client, "coderepository")

    for text in (
        "git.example.org",
        "release/9",
        "Rocket",
        "✗ FAILED",
        ">28.4<",
        ">~7.5<",
        "worker-7",
        "remote_timeout",
    ):
        assert text in listed
    assert "… PENDING" in listed


@pytest.mark.parametrize("status", CloneStatus)
def test_every_state_has_a_mark(admin_client: Client, make_repository: MakeRepository, status: CloneStatus) -> None:
    """No state breaks the list."""
    make_repository(clone_status=status)

    assert f" {status}</td>" in page(admin_client, "coderepository")


def test_repositories_are_found(admin_client: Client, make_repository: MakeRepository) -> None:
    """By a part of the URL, by the ref, by the commit and by the beginning of the id; filters narrow the list."""
    one = make_repository(ref="release/9", commit_id="a" * 40, clone_status=CloneStatus.FAILED)
    make_repository()

    def count(query: str) -> int:
        response = admin_client.get(reverse("admin:coderepos_coderepository_changelist") + f"?{query}")
        assert response.status_code == 200
        return int(response.context["cl"].result_count)

    assert count("q=git.example.org") == 2
    assert count("q=release/9") == count(f"q={'a' * 12}") == count(f"q={str(one.pk)[:13]}") == count(f"q={one.pk}") == 1
    assert count("q=%27%22%25") == 0
    assert (
        count("clone_status__exact=FAILED") == count(f"project__exact={one.project_id}&clone_status__exact=FAILED") == 1
    )


def test_clone_again(admin_client: Client, make_repository: MakeRepository) -> None:
    """The action queues what may be cloned again and says why the others were not."""
    failed, cleaned, pending, complete = (
        make_repository(clone_status=status) for status in ("FAILED", "CLEANED", "PENDING", "COMPLETED")
    )

    response = admin_client.post(
        reverse("admin:coderepos_coderepository_changelist"),
        {"action": "clone_again", "_selected_action": [row.pk for row in (failed, cleaned, pending, complete)]},
        follow=True,
    )

    texts = [str(message) for message in response.context["messages"]]
    assert sorted(texts) == [
        "1 not queued: Work on this repository is already under way; wait for it to end.",
        "3 queued to be cloned again.",
    ]
    assert {job.repository_id for job in Job.objects.all()} == {failed.pk, cleaned.pk, complete.pk}


def _staff(*codenames: str) -> User:
    user = User.objects.create_user("staff", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(content_type__app_label="coderepos", codename__in=codenames))
    return user


def test_clone_again_needs_the_permission_to_change(client: Client, make_repository: MakeRepository) -> None:
    """Who may only look is not offered the action, and gets nowhere by asking for it."""
    repository = make_repository(clone_status=CloneStatus.FAILED)
    client.force_login(_staff("view_coderepository"))
    address = reverse("admin:coderepos_coderepository_changelist")

    assert "Clone again" not in client.get(address).content.decode()
    client.post(address, {"action": "clone_again", "_selected_action": [repository.pk]})
    assert not Job.objects.exists()


def test_clone_again_needs_a_role_in_the_project(
    client: Client, make_repository: MakeRepository, project: Project
) -> None:
    """Permission in the admin does not replace the role in the project."""
    repository = make_repository(clone_status=CloneStatus.FAILED)
    user = _staff("view_coderepository", "change_coderepository")
    client.force_login(user)
    address = reverse("admin:coderepos_coderepository_changelist")
    post = {"action": "clone_again", "_selected_action": [repository.pk]}

    refused = client.post(address, post, follow=True)
    assert [str(message) for message in refused.context["messages"]] == [
        "1 not queued: Your role in this project does not allow this; ask one of its maintainers."
    ]
    ProjectMembership.objects.create(project=project, user=user, role=Role.DEVELOPER)
    client.post(address, post)
    assert Job.objects.get().repository_id == repository.pk


def remove(client: Client, model: str, *keys: object) -> int:
    """Delete rows by the page of one, or by the action for many; return the status of the answer."""
    kind = MODELS.get(model, "auth")
    if len(keys) == 1:
        return client.post(reverse(f"admin:{kind}_{model}_delete", args=keys), {"post": "yes"}).status_code
    data = {"action": "delete_selected", "_selected_action": [str(key) for key in keys], "post": "yes"}
    return client.post(reverse(f"admin:{kind}_{model}_changelist"), data).status_code


def staff(*permissions: str) -> Client:
    """Return somebody of the staff with permissions of these names alone."""
    user = User.objects.create_user("staff", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


@pytest.mark.parametrize("is_superuser", [True, False])
@pytest.mark.parametrize("count", [1, 2])
def test_projects_go_with_their_repositories(
    admin_client: Client,
    make_repository: MakeRepository,
    project: Project,
    django_capture_on_commit_callbacks: Any,
    is_superuser: bool,
    count: int,
) -> None:
    """Who may delete projects and users needs no permission of ours; what goes along is in the audit trail."""
    client = admin_client if is_superuser else staff("delete_project", "view_project")
    job = Job.objects.create(repository=make_repository(node="here"))
    ProjectMembership.objects.create(project=project, user=User.objects.create_user("member"))
    keys = [project.pk, *(Project.objects.create().pk for _ in range(count - 1))]

    with django_capture_on_commit_callbacks(execute=True):
        assert remove(client, "project", *keys) == 302

    assert not any(model.objects.exists() for model in (Project, CodeRepository, Job, ProjectMembership))
    entry = AuditEntry.objects.get(event=AuditEvent.DISCONNECTED)
    assert (entry.repository_id, entry.project_id, entry.actor_name) == (job.repository_id, str(project.pk), "")
    assert entry.details["git_url"] == job.repository.git_url
    assert list(Purge.objects.values_list("repository_id", "node")) == [(job.repository_id, "here")]


def test_users_go_with_their_memberships(
    admin_client: Client, make_repository: MakeRepository, project: Project
) -> None:
    """A user who is a member and connected repositories is deleted; the repositories stay."""
    user = User.objects.create_user("member")
    ProjectMembership.objects.create(project=project, user=user)
    repository = make_repository(connected_by=user)

    assert remove(admin_client, "user", user.pk) == 302

    repository.refresh_from_db()
    assert (repository.connected_by_id, ProjectMembership.objects.count()) == (None, 0)


@pytest.mark.parametrize("count", [1, 2])
def test_repositories_are_disconnected_by_name(make_repository: MakeRepository, count: int) -> None:
    """An operator with the permission disconnects repositories here, and the audit trail says who it was."""
    rows = [Job.objects.create(repository=make_repository()).repository for _ in range(count)]

    client = staff("delete_coderepository", "view_coderepository")

    assert remove(client, "coderepository", *(row.pk for row in rows)) == 302

    assert (CodeRepository.objects.count(), Job.objects.count()) == (0, 0)
    entries = AuditEntry.objects.filter(event=AuditEvent.DISCONNECTED, actor_name="staff")
    assert {entry.repository_id for entry in entries} == {row.pk for row in rows}


@pytest.mark.parametrize("model", ["job", "node", "auditentry", "coderepository"])
def test_nothing_else_is_deleted_by_hand(make_repository: MakeRepository, model: str) -> None:
    """Our own pages offer no deletion that permissions do not allow, or that would lose what is still needed."""
    client = staff("view_" + model, *(f"delete_{name}" for name in MODELS if name != "coderepository"))
    fill(make_repository, 0, 2)
    keys = list(apps.get_model("coderepos", model)._default_manager.values_list("pk", flat=True))

    assert remove(client, model, keys[0]) == 403
    assert "delete_selected" not in page(client, model)
    assert reverse(f"admin:coderepos_{model}_delete", args=keys[:1]) not in page(client, model, "change", keys[0])


def test_pages_of_others_do_not_list_ours(db: None) -> None:
    """That rows go along with their owners shows no model of ours to those who may see none."""
    client = staff("view_node")

    assert "/coderepos/node/" in client.get(reverse("admin:index")).content.decode()
    assert "/coderepos/job/" not in client.get(reverse("admin:index")).content.decode()


def test_job_whose_repository_went_ends_without_a_word(make_repository: MakeRepository) -> None:
    """Whatever a worker writes after the row is gone matches nothing."""
    repository = make_repository()
    job = Job.objects.claim(Job.objects.create(repository=repository).pk, node="here")
    assert job is not None
    CodeRepository.objects.all().delete()

    with pytest.raises(LeaseLost):
        job.renew(progress={}, bytes_received=1)
    assert job.fail(InternalError()) is False
    job.repository.record_token_result(accepted=True)


def test_jobs_show_their_figures(admin_client: Client, make_repository: MakeRepository) -> None:
    """Attempts, progress, isolation, durations and substitutions are in the list and in the details."""
    job = Job.objects.create(
        repository=make_repository(),
        state=JobState.RUNNING,
        attempt=2,
        isolation_level=3,
        bytes_received=12_345_678,
        progress={"phase": "receiving"},
        started_at=timezone.now() - timedelta(seconds=30),
        finished_at=timezone.now(),
        result={
            "substitutions": {"symlink": 2, "name": 0},
            "substituted_paths": ["symlink: <b>a</b>"],
            "seconds": {"scan": 0.25, "index": 1},
        },
    )

    listed = page(admin_client, "job")
    details = page(admin_client, "job", "change", job.pk)

    for text in ("2 of 4", "receiving", "12.3", "30.0 s", "symlink 2"):
        assert text in listed
        assert text in details
    assert "scan 0.2, index 1.0" in details
    assert "symlink: &lt;b&gt;a&lt;/b&gt;" in details
    assert "name 0" not in listed


def test_a_repository_shows_how_its_clone_differs(admin_client: Client, make_repository: MakeRepository) -> None:
    """Each reason has its count and a sentence; names are shown as text."""
    repository = make_repository(
        substitutions={"symlink": 2, "name": 1_234, "mode": 0}, substituted_paths=["symlink: <b>a</b>", "name: \\u202e"]
    )
    details = page(admin_client, "coderepository", "change", repository.pk)

    assert "2 symlink: links that leave the tree, or form a circle, are small files" in details
    assert "1234 name: names with control bytes or over 255 bytes are skipped" in details
    assert "0 mode" not in details
    assert "symlink: &lt;b&gt;a&lt;/b&gt;" in details
    assert "name: \\u202e" in details


def test_new_job_shows_without_figures(admin_client: Client, make_repository: MakeRepository) -> None:
    """A job that nobody began has dashes where figures would be."""
    job = Job.objects.create(repository=make_repository())

    assert "0 of 4" in page(admin_client, "job")
    assert "0 of 4" in page(admin_client, "job", "change", job.pk)


def test_history_of_a_repository_is_one_click_away(admin_client: Client, make_repository: MakeRepository) -> None:
    """The details of a repository link to its jobs alone."""
    repository = make_repository()
    job = Job.objects.create(repository=repository)
    other = Job.objects.create(repository=make_repository())
    link = reverse("admin:coderepos_job_changelist") + f"?repository__id__exact={repository.pk}"

    assert link in page(admin_client, "coderepository", "change", repository.pk)
    jobs = admin_client.get(link).content.decode()
    assert str(job.pk) in jobs
    assert str(other.pk) not in jobs


def test_tokens_that_need_care_are_found(admin_client: Client, make_repository: MakeRepository) -> None:
    """The list says how each token is, and is narrowed down to those that need care."""
    refused = make_repository(token_accepted=False)
    expiring = make_repository(token_accepted=True, token_expires_at=timezone.now() + timedelta(days=3))
    fine = make_repository(token_accepted=True)
    address = reverse("admin:coderepos_coderepository_changelist")

    def listed(query: str) -> set[CodeRepository]:
        response = admin_client.get(f"{address}?{query}")
        assert response.status_code == 200
        return set(response.context["cl"].result_list)

    assert ">expiring<" in page(admin_client, "coderepository")
    assert listed("token_status=refused") == {refused}
    assert listed("token_status=expiring") == {expiring}
    assert listed("token_status=ok") == {fine}
    assert listed("") == {refused, expiring, fine}
    assert ">refused<" in page(admin_client, "coderepository", "change", refused.pk)


def test_audit_trail_of_a_repository_is_one_click_away(admin_client: Client, make_repository: MakeRepository) -> None:
    """The details of a repository link to its entries alone; those without a repository show in the whole list."""
    repository = make_repository()
    AuditEntry.objects.record(AuditEvent.TOKEN_REPLACED, repository=repository, details={"kid": "local:of-this-one"})
    AuditEntry.objects.record(
        AuditEvent.CONNECT_REJECTED, project_id=repository.project_id, details={"code": "not_this_one"}
    )
    link = reverse("admin:coderepos_auditentry_changelist") + f"?repository_id__exact={repository.pk}"

    assert link in page(admin_client, "coderepository", "change", repository.pk)
    narrowed = admin_client.get(link)
    assert narrowed.status_code == 200
    assert "local:of-this-one" in narrowed.content.decode()
    assert "not_this_one" not in narrowed.content.decode()
    assert "not_this_one" in page(admin_client, "auditentry")
    found = admin_client.get(reverse("admin:coderepos_auditentry_changelist") + f"?q={repository.pk}")
    assert found.context["cl"].result_count == 1


def test_nodes_show_when_they_were_seen(admin_client: Client, db: None) -> None:
    """The age of a machine's last heartbeat is shown."""
    Node.objects.create(name="worker-7", isolation_level=2, last_seen=timezone.now() - timedelta(hours=3))

    assert "3\xa0hours" in page(admin_client, "node")


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
def test_ages_do_not_depend_on_the_host(
    admin_client: Client, make_repository: MakeRepository, settings: Settings, zone: str
) -> None:
    """Without USE_TZ times are naive, and SQLite's own clock is UTC whatever the zone of the host is."""
    settings.USE_TZ, settings.TIME_ZONE = False, zone
    Node.objects.create(name="worker-7")
    Node.objects.update(last_seen=Now() - timedelta(hours=3))
    Job.objects.create(repository=make_repository())
    Job.objects.update(started_at=Now() - timedelta(seconds=90))
    CodeRepository.objects.update(created_at=Now() - timedelta(hours=5))

    assert "3\xa0hours" in page(admin_client, "node")
    assert re.search(r"\b9\d\.\d s", page(admin_client, "job"))
    assert "5\xa0hours" in page(admin_client, "coderepository")


def test_members_are_edited(admin_client: Client, project: Project, django_user_model: type[User]) -> None:
    """Members are added on their own page, by ids, since the admins of projects and users are the host's."""
    user = django_user_model.objects.create_user("dora")
    form = {"project": str(project.pk), "user": user.pk, "role": "maintainer"}

    assert admin_client.post(reverse("admin:coderepos_projectmembership_add"), form).status_code == 302

    membership = ProjectMembership.objects.get()
    assert (membership.user, membership.project, membership.role) == (user, project, Role.MAINTAINER)
    assert "dora" in page(admin_client, "project", "change", project.pk)


def test_admin_passes_its_checks() -> None:
    """Django finds nothing wrong with how our admins are declared."""
    ours = [one for model, one in admin.site._registry.items() if model._meta.app_label in MODELS.values()]

    assert len(ours) == len(MODELS)
    assert [message for one in ours for message in one.check()] == []


ACTIONS = {"cancel": ("1 cancelled.", "FAILED"), "clean": ("1 being cleaned.", "CLEANING")}


def act(client: Client, action: str, *rows: CodeRepository, **values: str) -> Any:
    """Post an action for repositories, and return the page that follows."""
    data = {"action": action, "_selected_action": [str(row.pk) for row in rows], **values}
    return client.post(reverse("admin:coderepos_coderepository_changelist"), data, follow=True)


@pytest.mark.parametrize("action", ACTIONS)
def test_cancelling_and_cleaning_are_confirmed(
    admin_client: Client, make_repository: MakeRepository, action: str
) -> None:
    """The first page names what would happen to what; the form on it does that, and tells what could not be done."""
    status = "PENDING" if action == "cancel" else "COMPLETED"
    wanted, other = make_repository(clone_status=status), make_repository(clone_status="CLEANED", ref="<b>")
    if action == "cancel":
        Job.objects.create(repository=wanted)

    asked = act(admin_client, action, wanted, other)
    html = asked.content.decode()

    assert asked.context["title"] in ("Cancel running and waiting clones", "Remove clones from disk")
    assert (wanted.git_url in html, "&lt;b&gt;" in html, TOKEN in html) == (True, True, False)
    wanted.refresh_from_db()
    assert wanted.clone_status == status
    fields = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', html.split("<ul>")[-1])
    assert {value for name, value in fields if name == "_selected_action"} == {str(wanted.pk), str(other.pk)}

    done = act(admin_client, action, wanted, other, confirmed="yes")

    texts = sorted(str(message) for message in done.context["messages"])
    assert texts[0] == ACTIONS[action][0]
    assert texts[1].startswith("1 not ")
    wanted.refresh_from_db()
    assert wanted.clone_status == ACTIONS[action][1]
    assert AuditEntry.objects.get().actor_name == "admin"


@pytest.mark.parametrize("action", ACTIONS)
def test_cancelling_and_cleaning_need_permission_and_role(make_repository: MakeRepository, action: str) -> None:
    """Who may only look gets nowhere; who may change rows here needs a role in the project too."""
    repository = make_repository(clone_status=CloneStatus.COMPLETED)
    act(staff("view_coderepository"), action, repository, confirmed="yes")
    User.objects.all().delete()
    refused = act(staff("view_coderepository", "change_coderepository"), action, repository, confirmed="yes")

    assert "Your role in this project" in str(next(iter(refused.context["messages"])))
    repository.refresh_from_db()
    assert repository.clone_status == CloneStatus.COMPLETED


def test_more_than_a_form_can_confirm(
    admin_client: Client, make_repository: MakeRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page with more fields than Django takes would lead to an error."""
    monkeypatch.setattr(repository_actions, "MOST_CONFIRMED", 1)
    both = make_repository(clone_status="COMPLETED"), make_repository(clone_status="COMPLETED", ref="b")

    refused = act(admin_client, "clean", *both)

    assert "choose fewer at once" in str(next(iter(refused.context["messages"])))
