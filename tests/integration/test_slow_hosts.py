"""A site whose callers wait for a Git host that never answers goes on serving everybody else."""

from __future__ import annotations

import json
import socket
import statistics
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.contrib.auth import get_user_model
from model_bakery import baker
from rest_framework.authtoken.models import Token

from coderepos.crypto.secret import Secret
from coderepos.models import CodeRepository, ProjectMembership, Role
from coderepos.projects.models import Project
from tests.integration.test_web_servers import GUNICORN, serving
from tests.support.api_client import Api
from tests.support.cluster import wait_until
from tests.support.database import connection

CALLS = 200
TENANTS = 25
SLOTS = 20
SECONDS = 12
"""How long a probe waits for the host."""


def member() -> tuple[Project, str]:
    """Return a project, and the key of one of its developers."""
    project = baker.make(Project)
    user = baker.make(get_user_model(), is_active=True)
    baker.make(ProjectMembership, project=project, user=user, role=Role.DEVELOPER)
    return project, Token.objects.create(user=user).key


@pytest.mark.slow
def test_status_is_answered_while_two_hundred_calls_wait_for_a_host(
    child_environment: dict[str, str], tmp_path: Path, transactional_db: None
) -> None:
    """As many as there are slots wait, the others are refused at once, and status calls meet neither queue nor 500."""
    tenants = [member() for _ in range(TENANTS)]
    project, key = tenants[0]
    watched = baker.make(CodeRepository, project=project, git_url="https://h/r", token_ciphertext=Secret(""))
    command = [*GUNICORN, "--worker-class=gthread", "--threads=32"]

    with socket.create_server(("127.0.0.1", 0), backlog=4 * CALLS) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        changed = {
            "PRIVATE_GIT_HOSTS": [host],
            "INSECURE_HTTP_HOSTS": [host],
            "MAX_PROBES": SLOTS,
            "PROBE_TIMEOUT": SECONDS,
        }
        environment = {
            **child_environment,
            "HOME": str(tmp_path),
            "CODEREPOS_TEST_OVERRIDES": json.dumps(changed),
        }
        with serving(command, environment, tmp_path / "server.log") as (_, address):

            def status() -> float:
                started = time.monotonic()
                answer = Api(address, key).get(f"/repos/{watched.pk}/status")
                assert answer.status == 200, answer.body
                return time.monotonic() - started

            def connect(number: int) -> tuple[int, float]:
                tenant, its_key = tenants[number % TENANTS]
                started = time.monotonic()
                body = {"git_url": f"http://{host}/{number}", "project_id": str(tenant.pk)}
                return Api(address, its_key).post("/connect", body).status, time.monotonic() - started

            wait_until(lambda: status(), seconds=30, what="an answer")
            idle = statistics.median(status() for _ in range(40))
            with ThreadPoolExecutor(CALLS) as callers:
                calls = [callers.submit(connect, number) for number in range(CALLS)]
                busy = []
                deadline = time.monotonic() + SECONDS - 2
                while time.monotonic() < deadline:
                    busy.append(status())
                    time.sleep(0.05)
                held = sessions()
                answers = [call.result() for call in calls]

    statuses = Counter(status for status, _ in answers)
    print(
        f"status: {1_000 * idle:.1f} ms idle, {1_000 * statistics.median(busy):.1f} ms beside {CALLS} calls,"
        f" worst {1_000 * max(busy):.0f} ms of {len(busy)}; answers {dict(statuses)}, {held} sessions"
    )
    assert statuses == {504: SLOTS, 429: CALLS - SLOTS}
    assert statistics.median(busy) < SECONDS / 4, "no status call waits for a Git host"
    assert held < SLOTS, "nor does a connection to the database"


def sessions() -> int:
    """Return how many sessions the database has, where it counts them."""
    if connection.vendor != "postgresql":
        return 0
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        count: int = cursor.fetchone()[0]
    return count
