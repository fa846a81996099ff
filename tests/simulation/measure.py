"""Measure what the simulation knows of the app: ``python -m tests.simulation.measure``, on a PostgreSQL of its own.

The figures stand in :class:`tests.simulation.assumptions.Measured`; they differ by a few percent from run to run.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import django

from tests.postgres import temporary_server
from tests.support.git import make_repository
from tests.support.servers.git_http_backend import GitServer

JOBS = 100
TABLES = {
    "repository_bytes": "code_repos",
    "job_bytes": "code_repo_jobs",
    "audit_bytes": "code_repo_audit",
    "stored_pack_bytes": "code_repo_stored_packs",
}


def main() -> None:
    """Print one line per figure."""
    with temporary_server() as url, tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        (root / "packs").mkdir()
        (root / "packs" / ".coderepos-packs").touch()
        make_repository(root / "served" / "source", commits=20)
        with GitServer(root / "served", credentials=None) as server:
            _set_up(url, root, server)
            for name, bytes_each in {**_wal(server), **_rows()}.items():
                print(f"{name} = {bytes_each:,.0f}")


def _set_up(url: str, root: Path, server: GitServer) -> None:
    storage = {"BACKEND": "coderepos.storage.DirectoryStorage", "OPTIONS": {"location": str(root / "packs")}}
    values = {
        "SANDBOX_BASE_PATH": str(root / "repos"),
        "PRIVATE_GIT_HOSTS": [server.host],
        "INSECURE_HTTP_HOSTS": [server.host],
        "PACK_STORAGE": "packs",
    }
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "DATABASE_URL": url,
        "CODEREPOS_TEST_OVERRIDES": json.dumps(values),
        "CODEREPOS_TEST_STORAGES": json.dumps({"packs": storage}),
    }
    django.setup()
    logging.disable(logging.CRITICAL)
    from tests.support.database import connection

    connection.creation.create_test_db(verbosity=0, serialize=False)


def _rows() -> dict[str, float]:
    """Return what a row of each table takes with its indexes."""
    from coderepos.models import CodeRepository, PackState, StoredPack
    from tests.load.filling import Sizes, fill
    from tests.support.database import connection

    fill(Sizes())
    StoredPack.objects.all().delete()
    digests = {"pack_sha256": "0" * 64, "index_sha256": "0" * 64, "manifest_sha256": "0" * 64}
    keys = CodeRepository.objects.values_list("pk", flat=True)
    StoredPack.objects.bulk_create(
        StoredPack(repository_id=key, version=str(uuid.uuid4()), state=PackState.STORED, **digests) for key in keys
    )
    found = {}
    with connection.cursor() as cursor:
        for name, table in TABLES.items():
            cursor.execute(f"SELECT pg_total_relation_size('{table}') / count(*)::float FROM {table}")  # noqa: S608
            found[name] = cursor.fetchone()[0]
    return found


def _wal(server: GitServer) -> dict[str, float]:
    """Return what clones, clones again, and their storing write to the log of the database."""
    from coderepos import services
    from coderepos.crypto.secret import Secret
    from coderepos.models import AuditEntry, CodeRepository, Job, JobKind, get_project_model
    from coderepos.services.disk import this_machine
    from coderepos.services.packs.storing import run_storage_round

    keys: list[Any] = []

    def connect() -> None:
        for number in range(JOBS):
            project: Any = get_project_model()._default_manager.create(name=f"measured {number}")
            row = CodeRepository(project=project, git_url=server.url("source"))
            row.token_ciphertext = Secret("t" * 30)
            row.save(force_insert=True)
            keys.append(row.pk)

    def work(kind: JobKind) -> None:
        for key in keys:
            job = Job.objects.create(repository_id=key, kind=kind)
            assert services.worker.run_clone(job_id=job.pk) == "succeeded"

    def store() -> None:
        node = this_machine.register_node()
        while run_storage_round(node) != "0 stored, 0 removed":
            pass

    connect()
    first, stored = _wal_of(lambda: work(JobKind.CLONE)), _wal_of(store)
    audit = AuditEntry.objects.count()
    again, stored_again = _wal_of(lambda: work(JobKind.UPDATE)), _wal_of(store)
    audit = AuditEntry.objects.count() - audit
    for repository in CodeRepository.objects.all():
        repository.leave_disk()
    return {
        "clone_wal_bytes": first / JOBS,
        "store_wal_bytes": stored / JOBS,
        "update_wal_bytes": again / JOBS,
        "store_again_wal_bytes": stored_again / JOBS,
        "restore_wal_bytes": _wal_of(lambda: work(JobKind.RESTORE)) / JOBS,
        "audit_entries_a_clone": audit / JOBS,
    }


def _wal_of(action: Callable[[], None]) -> float:
    from tests.support.database import connection

    with connection.cursor() as cursor:
        cursor.execute("CHECKPOINT")
        cursor.execute("SELECT pg_current_wal_insert_lsn()")
        before = cursor.fetchone()[0]
    action()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_current_wal_insert_lsn() - %s::pg_lsn", [before])
        return float(cursor.fetchone()[0])


if __name__ == "__main__":
    main()
