"""Hosts that differ in their queue: what each sets, how its workers start, and how its queue breaks."""

from __future__ import annotations

import base64
import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tests.support.host_project import HostProject
from tests.support.servers.git_http_backend import GitServer
from tests.support.servers.redis import RedisServer

TOKEN = "ghp_OfTheQueues0123456789abcdefghijklmno"

MOUNTED = """
    import os
    from tests.host_project.base import CODEREPOS, Q_CLUSTER, SQLITE_OPTIONS
    INSTALLED_APPS += ["rest_framework", "coderepos", "coderepos.projects"]
    CODEREPOS["SANDBOX_BASE_PATH"] = str(BASE_DIR / "repos")
    DATABASES["default"]["OPTIONS"] = SQLITE_OPTIONS
    ALLOWED_HOSTS = ["localhost"]
"""
CONNECT = """
import json, time
from django.contrib.auth import get_user_model
from django.test import Client
from coderepos import queues
from coderepos.models import Job, get_project_model

User, Project = get_user_model(), get_project_model()
user = User.objects.filter(username="root").first() or User.objects.create_superuser("root")
project = Project.objects.create(name="Rocket")
client = Client(headers={{"host": "localhost"}})
client.force_login(user)
body = {{"git_url": {url!r}, "access_token": {token!r}, "project_id": str(project.pk)}}
began = time.monotonic()
answer = client.post("/api/v1/code/connect", json.dumps(body), content_type="application/json")
seconds = time.monotonic() - began
assert answer.status_code == 201, answer.content
job = Job.objects.get(pk=answer.json()["task_id"])
"""


class QueueHost:
    """A host whose queue is django-q2 in its own database; others derive from it."""

    settings = 'INSTALLED_APPS += ["django_q"]\n'
    worker: tuple[str, ...] = ("manage.py", "qcluster")

    def __init__(self, folder: Path, git_server: GitServer) -> None:
        folder.mkdir()
        self.host = HostProject(folder)
        self.host.configure(MOUNTED)
        for key in ("PRIVATE_GIT_HOSTS", "INSECURE_HTTP_HOSTS"):
            self.host.configure(f"CODEREPOS[{key!r}] = [{git_server.host!r}]\n")
        self.host.add(
            "mysite/urls.py",
            "\nfrom django.urls import include\nurlpatterns += [path('api/v1/code/', include('coderepos.api.urls'))]\n",
        )
        self._url = git_server.url("code.git")
        # From there the processes of workers take it away.
        self.host.configure('CODEREPOS["MASTER_ENCRYPTION_KEY"] = os.environ["MASTER_ENCRYPTION_KEY"]\n')
        self.host.environment["MASTER_ENCRYPTION_KEY"] = base64.b64encode(bytes(range(32))).decode()

    def prepare(self) -> None:
        """Add the settings, and make the tables."""
        self.host.configure(self.settings)
        self.host.manage("migrate")

    def connect(self, more: str = "") -> dict[str, Any]:
        """Connect a repository, run ``more``, and return the id of the job and how long the call took."""
        code = CONNECT.format(url=self._url, token=TOKEN) + more
        printed = self.host.python(code + "\nprint(json.dumps({'job': job.pk.hex, 'seconds': seconds}))\n")
        answer: dict[str, Any] = json.loads(printed.splitlines()[-1])
        return answer

    @contextmanager
    def workers(self) -> Iterator[Any]:
        """Start the workers of the queue in a session of their own, and end them."""
        with self.host.running_program([sys.executable, *self.worker], log="worker.log") as process:
            yield process

    @contextmanager
    def broken(self) -> Iterator[None]:
        """Take away what the queue keeps its tasks in, and all of them."""
        with self._without_table("django_q_ormq"):
            yield

    def waiting(self) -> int:
        """Return how many tasks wait in the queue, by what the queue itself says."""
        return int(
            self.host.python("from coderepos import queues\nprint(queues.current().facts().waiting)").split()[-1]
        )

    def job(self, pk: str) -> tuple[str, int]:
        """Return the state of a job and its attempt."""
        path = f"file:{self.host.folder}/db.sqlite3?mode=ro"
        # As a context manager of its own a connection is committed, and not closed.
        with closing(sqlite3.connect(path, uri=True, timeout=20)) as database:
            (row,) = database.execute("SELECT state, attempt FROM code_repo_jobs WHERE id = ?", (pk,))
        return row[0], row[1]

    def write(self, statement: str, *values: object) -> None:
        """Run one statement on the database of the host."""
        database = sqlite3.connect(f"{self.host.folder}/db.sqlite3", timeout=20, isolation_level=None)
        try:
            database.execute(statement, values)
        finally:
            database.close()

    @contextmanager
    def _without_table(self, table: str) -> Iterator[None]:
        self.write(f"ALTER TABLE {table} RENAME TO gone")
        yield
        self.write(f"ALTER TABLE gone RENAME TO {table}")


class TasksHost(QueueHost):
    """A host with Django's own tasks in its database, by a backend that it derived, and without django-q2."""

    settings = """
    INSTALLED_APPS += ["django_tasks_db"]
    TASKS = {"default": {"BACKEND": "mysite.backend.Backend"}}
    CODEREPOS["QUEUE"] = "coderepos.queues.django_tasks.DjangoTasks"
    """
    worker = ("manage.py", "db_worker", "--interval", "0.2", "--no-startup-delay")

    def prepare(self) -> None:
        """Write the backend, and go on as any host."""
        source = "from django_tasks_db import DatabaseBackend\n\nclass Backend(DatabaseBackend):\n    pass\n"
        Path(self.host.folder, "mysite/backend.py").write_text(source)
        super().prepare()

    @contextmanager
    def broken(self) -> Iterator[None]:
        """Take away the table of tasks."""
        with self._without_table("django_tasks_database_dbtaskresult"):
            yield


class RedisQueueHost(QueueHost):
    """A host whose django-q2 has its tasks in Redis."""

    redis: RedisServer

    def prepare(self) -> None:
        """Name the server, and go on as any host."""
        self.host.configure(
            f"Q_CLUSTER = {{**Q_CLUSTER, 'orm': None, 'redis': {{'host': '127.0.0.1', 'port': {self.redis.port}}}}}\n"
        )
        super().prepare()

    @contextmanager
    def broken(self) -> Iterator[None]:
        """Kill the server, and start an empty one."""
        self.redis.stop()
        yield
        self.redis.start()


class CeleryHost(RedisQueueHost):
    """A host with Celery and Redis, and without django-q2."""

    settings = """
    CODEREPOS["QUEUE"] = "coderepos.queues.celery.Celery"
    CELERY_WORKER_HIJACK_ROOT_LOGGER = False
    """
    pool = "prefork"

    @property
    def worker(self) -> tuple[str, ...]:  # type: ignore[override]
        """As the documentation has it."""
        options = ("--pool", self.pool, "--concurrency", "2", "--prefetch-multiplier", "1")
        return ("-m", "celery", "-A", "mysite", "worker", *options)

    def prepare(self) -> None:
        """Make the Celery app, as its documentation for Django does."""
        self.host.configure(f"CELERY_BROKER_URL = {self.redis.url!r}\n")
        self.host.add(
            "mysite/celery.py",
            """
            import os
            from celery import Celery
            os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
            app = Celery("mysite")
            app.config_from_object("django.conf:settings", namespace="CELERY")
            """,
        )
        self.host.add("mysite/__init__.py", "from .celery import app as celery_app\n")
        QueueHost.prepare(self)


class CeleryThreadsHost(CeleryHost):
    """The same with a worker that has threads instead of processes."""

    pool = "threads"


class CelerySoloHost(CeleryHost):
    """The same with a worker that runs its tasks by itself."""

    pool = "solo"
