"""The report that a cron asks: which tokens have to be replaced."""

from __future__ import annotations

import io
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from coderepos.crypto.secret import Secret
from coderepos.models import CodeRepository
from coderepos.projects.models import Project
from tests.support.cluster import ROOT
from tests.support.database import connection

TOKEN = "ghp_NobodyMayEverReadThis0123456789abcd"


def make(name: str, *, days: float | None = None, accepted: bool | None = True) -> CodeRepository:
    """Make a repository whose token ends in so many days."""
    project, _ = Project.objects.get_or_create(name="Rocket")
    row = CodeRepository.objects.create(
        project=project,
        git_url=f"https://github.com/owner/{name}",
        url_key=name,
        ref="main",
        token_ciphertext=Secret(TOKEN),
        token_accepted=accepted,
    )
    if days is not None:
        CodeRepository.objects.filter(pk=row.pk).update(token_expires_at=Now() + timedelta(days=days))
    return row


def report(*arguments: str) -> tuple[int, list[str]]:
    """Run the command; its exit status and its lines."""
    output = io.StringIO()
    try:
        call_command("coderepos_token_report", *arguments, stdout=output)
    except CommandError as error:
        return error.returncode, output.getvalue().splitlines()
    return 0, output.getvalue().splitlines()


def test_nothing_to_do(db: None) -> None:
    """Tokens that work, and those of which nothing is known, are no work."""
    make("fine", days=100)
    make("endless")
    make("new", accepted=None)

    assert report() == (0, [])


def test_what_has_to_be_replaced(db: None) -> None:
    """Expired, refused and soon ending ones are listed, the most urgent first, each with what finds it."""
    soon, gone = make("soon", days=13), make("gone", days=-1)
    refused = make("refused", days=100, accepted=False)
    make("later", days=20)
    unknown = make("of-unknown-end", accepted=False)

    status, lines = report()

    assert status == 3
    assert [line.split()[0] for line in lines] == ["expired", "expiring", "refused", "refused"]
    for line, row in zip(lines, (gone, soon, refused, unknown), strict=True):
        assert str(row.pk) in line
        assert str(row.project_id) in line
        assert line.endswith(f"{row.git_url} @ main")


@pytest.mark.parametrize(("days", "listed"), [(0, 0), (13, 0), (14, 1), (30, 1)])
def test_days(db: None, days: int, listed: int) -> None:
    """How far to look ahead is up to the caller."""
    make("soon", days=13.5)

    status, lines = report("--days", str(days))

    assert (status, len(lines)) == (3 * listed, listed)


@pytest.mark.parametrize("days", ["-1", "36501", "1000000000"])
def test_impossible_days(db: None, days: str) -> None:
    """A number that cannot be meant is an error of its own."""
    with pytest.raises(CommandError, match="argument --days"):
        call_command("coderepos_token_report", f"--days={days}")


def test_no_token_is_read(db: None) -> None:
    """No statement names the sealed token."""
    make("refused", accepted=False)
    with CaptureQueriesContext(connection) as queries:
        report()

    assert len(queries) == 1
    assert "token_ciphertext" not in queries[0]["sql"]


def test_cron_sees_the_exit_status(child_environment: dict[str, str], transactional_db: None) -> None:
    """As a program it ends with 3 where there is work, and with 0 where there is none."""

    def run() -> Any:
        return subprocess.run(
            [sys.executable, Path(ROOT, "manage.py"), "coderepos_token_report", "--days", "7"],
            env=child_environment,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=ROOT,
        )

    assert run().returncode == 0
    make("refused", accepted=False)
    done = run()
    assert (done.returncode, "owner/refused" in done.stdout) == (3, True), done.stderr
    assert "1 tokens need" in done.stderr
    assert TOKEN not in done.stdout + done.stderr
