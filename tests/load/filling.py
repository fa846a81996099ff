"""Fills PostgreSQL with as many rows as a busy site has, within seconds."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import md5
from typing import Any, Final

from django.contrib.auth.models import User
from django.db import models

from coderepos.crypto.secret import Secret
from coderepos.models import (
    AuditEntry,
    AuditEvent,
    CloneStatus,
    CodeRepository,
    Flow,
    Job,
    JobState,
    Node,
    ProjectMembership,
    Role,
)
from coderepos.projects.models import Project
from tests.support.database import connection

NODE: Final = "test-node"
"""The machine of the tests' settings."""

ERROR_CODE: Final = "remote_not_found"
"""With which a tenth of all jobs ended."""

PER_PROJECT: Final = 50
"""Repositories of one project."""

BACKLOG_SHARE: Final = 5
"""Every fifth repository waits for a worker."""


@dataclass(frozen=True)
class Sizes:
    """How many rows of each kind; jobs and entries are spread over all repositories."""

    repositories: int = 10_000
    jobs: int = 100_000
    entries: int = 200_000


@dataclass(frozen=True)
class Filled:
    """Who and what to ask for."""

    superuser: User
    member: User
    """Of the first twenty projects."""

    project: Project
    repository: CodeRepository
    """One that is COMPLETED, with as many jobs and entries as the others."""

    waiting: Job
    """The job that has waited longest."""

    last_waiting: Job
    """The one before which all others come."""

    failed: CodeRepository
    """One that may be cloned again."""

    pending: CodeRepository
    """One whose job may be cancelled."""


def fill(sizes: Sizes) -> Filled:
    """Add the rows to the database of the tests, and let its planner look at them."""
    superuser = User.objects.create_superuser(f"root-{uuid.uuid4().hex[:6]}")
    member = User.objects.create_user(f"member-{uuid.uuid4().hex[:6]}")
    projects = [
        Project(id=_uuid("project", number), name=f"Project {number}")
        for number in range(sizes.repositories // PER_PROJECT)
    ]
    Project.objects.bulk_create(projects)
    ProjectMembership.objects.bulk_create(
        ProjectMembership(project=project, user=member, role=Role.MAINTAINER) for project in projects[:20]
    )
    Node.objects.get_or_create(name=NODE)
    first = CodeRepository.objects.create(
        project=projects[0],
        git_url="https://git.example/owner/repository-0.git",
        token_ciphertext=Secret(""),
        clone_status=CloneStatus.COMPLETED,
        version=str(uuid.uuid4()),
        node=NODE,
        sandbox_path="/nowhere/repository",
        commit_id="c" * 40,
        ref_name="refs/heads/main",
        repository_size_mb=12,
        estimated_size_mb=20,
        connected_by=member,
    )
    _add_repositories(first, sizes, projects=len(projects))
    _add_jobs(first, sizes)
    _add_entries(first, sizes)
    Flow.objects.bulk_create(
        Flow(key=str(project.pk), virtual_time=number, active=True, slots=2 if number % 2 else None)
        for number, project in enumerate(projects)
    )
    analyze()
    waiting = Job.objects.due().order_by("created_at")
    return Filled(
        superuser=superuser,
        member=member,
        project=projects[0],
        repository=first,
        waiting=waiting[0],
        last_waiting=waiting.reverse()[0],
        failed=CodeRepository.objects.filter(clone_status=CloneStatus.FAILED, project__in=projects[:20])[0],
        pending=CodeRepository.objects.filter(clone_status=CloneStatus.PENDING, project__in=projects[:20])[0],
    )


def analyze() -> None:
    """Let the planner look at the tables, as the server does by itself after a while."""
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE" if connection.in_atomic_block else "VACUUM ANALYZE")


def _add_repositories(first: CodeRepository, sizes: Sizes, *, projects: int) -> None:
    status = (
        f"CASE WHEN n % {BACKLOG_SHARE} = 1 THEN '{CloneStatus.PENDING}' WHEN n % 100 = 2 THEN '{CloneStatus.CLONING}' "
        f"WHEN n % 10 = 3 THEN '{CloneStatus.FAILED}' ELSE '{CloneStatus.COMPLETED}' END"
    )
    _multiply(
        first,
        sizes.repositories - 1,
        {
            "id": _sql_uuid("repository", "n"),
            "project_id": _sql_uuid("project", f"n % {projects}"),
            "git_url": "'https://git.example/owner/repository-' || n || '.git'",
            "url_key": "'git.example/owner/repository-' || n",
            "platform": "CASE WHEN n % 3 = 0 THEN 'github' ELSE 'generic' END",
            "clone_status": status,
            "error_code": f"CASE WHEN n % 10 = 3 THEN '{ERROR_CODE}' ELSE '' END",
            "version": "CASE WHEN n % 10 IN (1, 2, 3, 6) THEN '' ELSE gen_random_uuid()::text END",
            "node": f"CASE WHEN n % 10 IN (1, 2, 3, 6) THEN '' ELSE '{NODE}' END",
            "repository_size_mb": "CASE WHEN n % 10 IN (1, 2, 3, 6) THEN NULL ELSE n % 97 END",
            "created_at": "now() - n * interval '13 minutes'",
            "updated_at": "now() - n * interval '3 minutes'",
        },
    )


def _add_jobs(repository: CodeRepository, sizes: Sizes) -> None:
    """Add the history of all repositories, and one open job of each that waits or is cloned."""
    first = Job.objects.create(repository=repository, state=JobState.SUCCEEDED, attempt=1, node=NODE)
    number = f"n % {sizes.repositories - 1} + 1"
    newest = f"n < {sizes.repositories}"
    state = (
        f"CASE WHEN {newest} AND ({number}) % {BACKLOG_SHARE} = 1 THEN '{JobState.QUEUED}' "
        f"WHEN {newest} AND ({number}) % 100 = 2 THEN '{JobState.RUNNING}' "
        f"WHEN n % 10 = 3 THEN '{JobState.FAILED}' ELSE '{JobState.SUCCEEDED}' END"
    )
    is_running = f"({state}) = '{JobState.RUNNING}'"
    _multiply(
        first,
        sizes.jobs - 1,
        {
            "id": _sql_uuid("job", "n"),
            "repository_id": _sql_uuid("repository", number),
            "flow": f"{_sql_uuid('project', f'({number}) % {sizes.repositories // PER_PROJECT}')}::text",
            "state": state,
            "next_attempt_at": f"CASE WHEN ({state}) = '{JobState.QUEUED}' AND n % 2 = 0 "
            "THEN now() - n % 977 * interval '1 second' END",
            "lease_token": f"CASE WHEN {is_running} THEN gen_random_uuid() END",
            "lease_until": f"CASE WHEN {is_running} THEN now() + interval '1 hour' END",
            "heartbeat_at": f"CASE WHEN {is_running} THEN now() ELSE now() - n * interval '77 seconds' END",
            "enqueued_at": "now() - n * interval '77 seconds'",
            "error_code": f"CASE WHEN n % 10 = 3 THEN '{ERROR_CODE}' ELSE '' END",
            "created_at": "now() - n * interval '77 seconds'",
        },
    )


def _add_entries(repository: CodeRepository, sizes: Sizes) -> None:
    first = AuditEntry.objects.record(AuditEvent.CONNECTED, repository=repository, actor=repository.connected_by)
    _multiply(
        first,
        sizes.entries - 1,
        {
            "id": f"{first.pk} + n",
            "event": f"CASE WHEN n % 3 = 0 THEN '{AuditEvent.CONNECTED}' ELSE '{AuditEvent.TOKEN_OPENED}' END",
            "actor_name": "'user-' || n % 1000",
            "project_id": f"{_sql_uuid('project', f'n % {sizes.repositories // PER_PROJECT}')}::text",
            "repository_id": _sql_uuid("repository", f"n % {sizes.repositories - 1} + 1"),
            "job_id": _sql_uuid("job", f"n % {sizes.jobs - 1} + 1"),
            "created_at": "now() - n * interval '39 seconds'",
        },
    )
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT setval(pg_get_serial_sequence('code_repo_audit', 'id'), (SELECT max(id) FROM code_repo_audit))"
        )


def _multiply(first: models.Model, times: int, values: Mapping[str, str]) -> None:
    """Insert copies of a row, so that columns that are not named here have the values that the app gives them.

    :param values: SQL per column, in which ``n`` counts the copies from 1.
    """
    meta = first._meta
    quoted: Any = connection.ops.quote_name
    columns = [field.column for field in meta.concrete_fields]
    chosen = ", ".join(values.get(str(column), f"first.{quoted(column)}") for column in columns).replace("%", "%%")
    table = quoted(meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} ({', '.join(map(quoted, columns))}) SELECT {chosen} "  # noqa: S608  all of it is ours
            f"FROM {table} AS first, generate_series(1, %s) AS n WHERE first.{quoted(meta.pk.column)} = %s",
            [times, first.pk],
        )


def _uuid(kind: str, number: int) -> uuid.UUID:
    return uuid.UUID(md5(f"{kind}{number}".encode(), usedforsecurity=False).hexdigest())


def _sql_uuid(kind: str, number: str) -> str:
    return f"md5('{kind}' || ({number}))::uuid"
