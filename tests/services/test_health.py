"""The report for operators: what is red and what is not, in a bounded time."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db.models.functions import Now
from django_q.models import Schedule
from model_bakery import baker
from pytest_django import Settings

from coderepos import queues, services
from coderepos.crypto.secret import Secret
from coderepos.models import CodeRepository, Job, JobState, Node, get_project_model
from coderepos.models.node import NodeState
from coderepos.services.health.finding import Finding, Level, ok, worst
from coderepos.services.health.report import CHECKS, examine
from coderepos.services.health.signs import read_signs
from tests.support.database import connection

ROOT = Path(__file__).resolve().parents[2]


ROOT = Path(__file__).resolve().parents[2]


def make_job(**values: Any) -> Job:
    """Store a job as it would be after ``values``."""
    repository = baker.make(
        CodeRepository, project=baker.make(get_project_model()), git_url="https://h/r", token_ciphertext=Secret("")
    )
    job = Job.objects.create(repository=repository)
    Job.objects.filter(pk=job.pk).update(**values)
    return job


def found(check: str) -> Finding:
    """Return what one check finds, by the connection of this test."""
    findings = [finding for group in CHECKS.values() for finding in group()]
    return next(finding for finding in findings if finding.check == check)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("node_seen_seconds", "heartbeat_seconds", "due_seconds", "healthy"),
    [
        pytest.param(1, None, None, True, id="idle"),
        pytest.param(1, None, 60, True, id="due for a moment"),
        pytest.param(1, None, 180, False, id="due, and none runs"),
        pytest.param(1, 5, 3_600, True, id="a backlog behind what runs"),
        pytest.param(None, 5, 3_600, True, id="busy, and the upkeep is late"),
        pytest.param(100, None, None, False, id="silent"),
        pytest.param(100, 100, None, False, id="died at work"),
        pytest.param(None, None, None, False, id="never started"),
    ],
)
def test_health_is_whether_due_jobs_are_taken(
    node_seen_seconds: int | None, heartbeat_seconds: int | None, due_seconds: int | None, healthy: bool
) -> None:
    """Never green while no job runs though one is due, never red while a backlog is worked on."""
    if node_seen_seconds:
        Node.objects.create(name="worker-1", last_seen=Now() - timedelta(seconds=node_seen_seconds))
    if heartbeat_seconds:
        heartbeat = Now() - timedelta(seconds=heartbeat_seconds)
        make_job(state=JobState.RUNNING, heartbeat_at=heartbeat, lease_until=heartbeat + timedelta(seconds=60))
    if due_seconds:
        make_job(created_at=Now() - timedelta(seconds=due_seconds))

    assert (read_signs().fault is None) == healthy
    levels = {found(check).level for check in ("jobs", "upkeep")}
    assert (Level.FAILING not in levels) == healthy


@pytest.mark.django_db
def test_a_job_that_is_not_due_yet_is_not_overdue() -> None:
    """Its next attempt has a time of its own."""
    make_job(created_at=Now() - timedelta(hours=1), next_attempt_at=Now() + timedelta(seconds=60))

    assert not read_signs().stand_still
    assert found("jobs").text == "none is due"


@pytest.mark.django_db
@pytest.mark.parametrize(("seconds", "level"), [(10, Level.OK), (90, Level.FAILING)])
def test_leases_that_nobody_expires_are_red(seconds: int, level: Level) -> None:
    """The upkeep does so within seconds."""
    make_job(state=JobState.RUNNING, lease_until=Now() - timedelta(seconds=seconds))

    assert found("leases").level == level


@pytest.mark.django_db
def test_each_machine_is_named() -> None:
    """One that is silent is a warning, one that can't confine is red, one that is long gone is left out."""
    for name, level, seconds in (("fine", 3, 1), ("late", 3, 120), ("weak", 0, 1), ("gone", 3, 100_000)):
        Node.objects.create(name=name, isolation_level=level, last_seen=Now() - timedelta(seconds=seconds))
    Node.objects.filter(name="fine").update(disk_free_bytes=30 * 10**9, disk_budget_bytes=40 * 10**9)
    fine = next(one for one in CHECKS["database"]() if one.values.get("node") == "fine")
    assert fine.text.endswith("0.0 of 40.0 GB used, 30.0 free")

    nodes = {one.values["node"]: one.level for one in CHECKS["database"]() if one.check == "node"}

    assert nodes == {"fine": Level.OK, "late": Level.WARNING, "weak": Level.FAILING}


@pytest.mark.django_db
def test_a_machine_that_is_drained_is_said_to_be_so() -> None:
    """Its workers live and take nothing: whoever looks for the reason finds it here."""
    Node.objects.create(name="worker-1", last_seen=Now(), isolation_level=3).set_state(NodeState.DRAINING)

    finding = found("node")

    assert (finding.level, finding.values["state"]) == (Level.WARNING, "DRAINING")
    assert "claim nothing" in finding.text


@pytest.mark.skipif(connection.vendor != "postgresql", reason="has one writer at a time")
@pytest.mark.django_db(transaction=True)
def test_another_isolation_level_is_a_warning() -> None:
    """Jobs get done by it, so that it is no alarm."""
    assert found("transactions").level == Level.OK
    with connection.cursor() as cursor:
        cursor.execute("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    try:
        assert found("transactions").level == Level.WARNING
    finally:
        connection.close()


@pytest.mark.django_db
def test_missing_schedules_are_named() -> None:
    """``migrate`` makes them."""
    queues.ensure_periodic()
    assert found("schedules").level == Level.OK
    Schedule.objects.filter(name="coderepos.reap").delete()

    assert "reap" in found("schedules").text


@pytest.mark.django_db
def test_queue_without_schedules_says_who_keeps_it_up(settings: Settings) -> None:
    """And when that last happened on this machine."""
    settings.CODEREPOS = {**settings.CODEREPOS, "QUEUE": "tests.queues.test_choice.Bell", "NODE_ID": "here"}
    assert "keeps none" in found("schedules").text
    assert "has begun no round here" in found("schedules").text

    Node.objects.create(name="here").begin_upkeep(every_seconds=1)

    assert "began here 0 s ago" in found("schedules").text
    assert found("schedules").level == Level.OK


@pytest.mark.django_db
def test_a_key_that_does_not_seal_is_red(settings: Settings) -> None:
    """Nothing of a key is printed."""
    assert found("key").level == Level.OK
    settings.CODEREPOS = {**settings.CODEREPOS, "MASTER_ENCRYPTION_KEY": None}

    assert found("key").level == Level.FAILING


@pytest.mark.django_db
def test_a_disk_that_is_not_mounted_is_red(settings: Settings, tmp_path: Path) -> None:
    """A root that was in use has its marker; one that never was is no fault of a web server."""
    settings.CODEREPOS = {**settings.CODEREPOS, "SANDBOX_BASE_PATH": str(tmp_path / "repos")}
    assert found("sandbox_root").level == Level.OK
    root = services.disk.this_machine.prepare_root(services.worker.register_node())
    assert "this machine's" in found("sandbox_root").text
    (root.path / ".coderepos-root").unlink()

    assert found("sandbox_root").level == Level.FAILING


@pytest.mark.django_db
def test_a_disk_that_is_full_is_red(settings: Settings, tmp_path: Path) -> None:
    """What is free is compared with what has to stay so: clones wait below that, and next to nothing is an alarm."""
    settings.CODEREPOS = {**settings.CODEREPOS, "SANDBOX_BASE_PATH": str(tmp_path)}
    free_gb = found("disk").values["free_bytes"] / 10**9
    for share, level in ((0.5, Level.OK), (2, Level.WARNING), (20, Level.FAILING)):
        settings.CODEREPOS = {**settings.CODEREPOS, "SANDBOX_FREE_GB": free_gb * share}

        assert found("disk").level == level


@pytest.mark.django_db
@pytest.mark.parametrize(("seconds", "level"), [(60, Level.OK), (3_600, Level.WARNING)])
def test_jobs_that_wait_for_room_are_counted(seconds: int, level: Level) -> None:
    """For a while that is normal, and then somebody should know."""
    make_job(waits_for_disk_since=Now() - timedelta(seconds=seconds), next_attempt_at=Now() + timedelta(seconds=60))

    assert (found("room").values["waiting"], found("room").level) == (1, level)
    assert not read_signs().stand_still


def test_what_hangs_is_red_and_delays_nothing() -> None:
    """What a check found before it hung counts, and so does every other check."""
    release = threading.Event()

    def hangs() -> Iterator[Finding]:
        yield ok("one", "fine")
        release.wait(30)

    def fails() -> Iterator[Finding]:
        yield from (int("no number") for _ in range(1))  # type: ignore[misc]

    started = time.monotonic()
    findings = examine(
        checks={"one": hangs, "two": fails, "three": lambda: iter([ok("three", "fine")])}, deadline_seconds=0.3
    )

    assert time.monotonic() - started < 5
    assert [(one.check, one.level, one.text) for one in findings] == [
        ("one", "ok", "fine"),
        ("one", "failing", "no answer within 0.3 s"),
        ("two", "failing", "ValueError: invalid literal for int() with base 10: 'no number'"),
        ("three", "ok", "fine"),
    ]
    assert worst(findings) == Level.FAILING
    release.set()


@pytest.mark.django_db(transaction=True)
def test_command_prints_both_forms() -> None:
    """One line for people, one object for monitors, and the exit status for scripts."""
    queues.ensure_periodic()
    text, as_json = StringIO(), StringIO()
    with pytest.raises(CommandError, match="failing: upkeep") as error:
        call_command("coderepos_health", stdout=text)
    assert error.value.returncode == 1
    assert "FAILING  upkeep" in text.getvalue()

    Node.objects.create(name="worker-1", isolation_level=3)
    call_command("coderepos_health", "--json", stdout=as_json)
    report = json.loads(as_json.getvalue())
    assert report["status"] == "ok"
    assert {"check", "level", "text", "values"} == set(report["checks"][0])


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_a_key_service_that_hangs_is_named_within_seconds(child_environment: dict[str, str]) -> None:
    """The command ends although its clients would go on to wait; what needs no key is told."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        overrides = {"KMS_KEY_ID": "vault://transit/coderepos", "PRIMARY_KEY": "kms"}
        environment = {"VAULT_ADDR": address, "VAULT_TOKEN": "t", "CODEREPOS_TEST_OVERRIDES": json.dumps(overrides)}
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "manage.py", "coderepos_health"],
            cwd=ROOT,
            env={**child_environment, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        took_seconds = time.monotonic() - started

    lines = [line.split()[:2] for line in done.stdout.splitlines()]
    assert ["FAILING", "key"] in lines
    assert ["OK", "database"] in lines
    assert (done.returncode, took_seconds < 15) == (1, True)
