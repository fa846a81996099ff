"""Hosts with several databases: the tables in one that is not ``default``, replicas that lag, a queue of its own."""

from __future__ import annotations

import pytest

from tests.support.host_project import MOUNTED, HostProject

TWO_DATABASES = """
    DATABASES["code"] = {**DATABASES["default"], "NAME": BASE_DIR / "code.sqlite3"}
    DATABASES["stale"] = {**DATABASES["default"], "NAME": BASE_DIR / "stale.sqlite3"}
    DATABASE_ROUTERS = ["mysite.router.Router"]
    Q_CLUSTER["orm"] = "code"
    INSTALLED_APPS += ["coderepos.projects"]
"""
ROUTER = """
    class Router:
        def db_for_read(self, model, **hints):
            return "default" if model._meta.app_label == "sessions" else "stale"

        def db_for_write(self, model, **hints):
            return "default" if model._meta.app_label == "sessions" else "code"

        def allow_migrate(self, db, app_label, **hints):
            return (db == "default") == (app_label == "sessions")
"""
PREPARE = """
    from django.contrib.auth.models import User
    from coderepos.models import CodeRepository, Job, alias
    from coderepos.projects.models import Project
    user = User.objects.create_superuser("root", password="secret")
    project = Project.objects.create(name="Rocket")
    url = "https://a.example/b"
    repository = CodeRepository.objects.create(project=project, git_url=url, url_key=url, token_ciphertext="t")
    Job.objects.create(repository=repository)
    assert alias() == "code"
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> HostProject:
    """A host that reads from a replica which gets nothing of what is written."""
    host = HostProject(tmp_path_factory.mktemp("host"))
    host.configure(MOUNTED)
    host.configure(TWO_DATABASES)
    host.add("mysite/router.py", ROUTER)
    for database in ("default", "code", "stale"):
        host.manage("migrate", "--database", database)
    host.python(PREPARE)
    return host


@pytest.mark.slow
def test_own_writes_are_read_from_where_they_were_written(host: HostProject) -> None:
    """A replica that lags for ever hides nothing: claim, status, related rows, refreshes and new tokens."""
    host.python(
        """
        import uuid
        from unittest import mock
        from django.contrib.auth.models import User
        from django.test import Client
        from coderepos import access, services
        from coderepos.access import Action
        from coderepos.crypto.secret import Secret
        from coderepos.exceptions import InternalError
        from coderepos.models import AuditEntry, AuditEvent, CodeRepository, Job, ProjectMembership
        from coderepos.projects.models import Project

        user = User.objects.using("code").get()
        project = Project.objects.using("code").get()
        repository, job = CodeRepository.objects.get(), Job.objects.get()
        assert list(repository.jobs.all()) == [job] and job.repository == repository
        repository.refresh_from_db()
        assert access.find_project(user, str(project.pk)) == project
        assert list(access.visible_repositories(user)) == [repository]
        assert Job.objects.claim(job.pk, node="here").state == "RUNNING"
        job.refresh_from_db()
        assert job.fail(InternalError())
        assert CodeRepository.objects.get().clone_status == "FAILED"
        again = services.clone_repository(user=user, repository=CodeRepository.objects.get())
        assert Job.objects.claim(again.pk, node="here").pk == again.pk
        assert CodeRepository.objects.get().clone_status == "CLONING"
        with mock.patch("coderepos.services.repositories.tokens._expiry", return_value=None):
            replaced = services.replace_token(user=user, repository=repository, access_token=Secret("new"))
        assert replaced.token_ciphertext.reveal() == "new" and replaced.token_status == "ok"
        assert AuditEntry.objects.newest_first()[0].event == AuditEvent.TOKEN_REPLACED
        member = User.objects.create_user("member")
        ProjectMembership.objects.create(project=project, user=member, role="developer")
        access.require(member, Action.CONNECT, project.pk)
        assert CodeRepository.objects.using("stale").count() == 0
        assert services.worker.reap().startswith("0 leases expired")
        """
    )


@pytest.mark.slow
def test_commands_find_the_tables(host: HostProject) -> None:
    """Without ``--database`` a command asks the database that the tables are in."""
    assert "0 moved" in host.manage("coderepos_rekey")
    host.manage("coderepos_token_report")
    host.manage("check", "--database", "default", "--database", "code")


@pytest.mark.slow
def test_notification_does_not_roll_back_a_transaction_of_the_host(host: HostProject) -> None:
    """The queue's broker closes connections that are in a transaction, so that it waits for the end of each."""
    host.python(
        """
        from django.contrib.sessions.models import Session
        from django.db import transaction
        from django.utils import timezone
        from django_q.models import OrmQ
        from coderepos import queues
        from coderepos.models import Job

        OrmQ.objects.using("code").all().delete()
        with transaction.atomic():
            Session.objects.create(session_key="kept", expire_date=timezone.now())
            with transaction.atomic(using="code"):
                queues.enqueue(Job.objects.first())
            assert OrmQ.objects.using("code").count() == 0
        assert Session.objects.filter(session_key="kept").exists()
        assert OrmQ.objects.using("code").count() == 1
        """
    )
