"""Whatever a site does often follows indexes, whatever its tables have grown to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.core.signals import request_started
from django.db import transaction
from django.urls import resolve
from pytest_django import Settings

from coderepos import services
from coderepos.api import urls
from coderepos.services.disk import this_machine
from tests.load import plans, sandboxes
from tests.load.calls import Call, admin_calls, api_calls, work_calls
from tests.load.filling import Sizes, analyze, fill
from tests.support.database import connection

pytestmark = [
    pytest.mark.skipif(connection.vendor != "postgresql", reason="is about the planner of PostgreSQL"),
    pytest.mark.django_db(transaction=True),
]


def faults_of(call: Call) -> list[str]:
    """Make a call, undo it, and return what is wrong with the plans of its statements."""
    with transaction.atomic(using=connection.alias), plans.recorded() as recorder:
        call.run()
        transaction.set_rollback(True, using=connection.alias)
    assert recorder.statements, call.name
    found = [f"{call.name}: {fault}" for fault in recorder.faults]
    return [fault for fault in found if not (call.reads_urls and ": code_repos is read as a whole" in fault)]


NOT_CALLED = {"connect", "repo-token", "health"}
"""Addresses of which all calls ask a Git host, and one that asks the database what ``health, short`` asks."""


def test_nothing_reads_or_sorts_a_large_table(settings: Settings, tmp_path: Path) -> None:
    """Endpoints, pages of the admin with each filter and order, claim, upkeep and sweep: by the plans that are run."""
    settings.ROOT_URLCONF = "tests.load.urls"
    filled = fill(Sizes(repositories=4_000, jobs=30_000, entries=30_000))

    calls = [*api_calls(filled), *admin_calls(filled), *work_calls(filled)]

    with called_names() as names:
        faults = [fault for call in calls for fault in faults_of(call)]
    faults += faults_of_sweep(settings, tmp_path)

    assert faults == []
    assert names >= {str(pattern.name) for pattern in urls.urlpatterns} - NOT_CALLED


def faults_of_sweep(settings: Settings, directory: Path) -> list[str]:
    """Sweep a machine that has a part of all repositories, and return what is wrong with the plans."""
    settings.CODEREPOS = {**settings.CODEREPOS, "SANDBOX_BASE_PATH": str(directory / "repos")}
    this_machine.prepare_root(services.worker.register_node())
    sandboxes.publish(400)
    analyze()
    said: list[str] = []
    faults = faults_of(Call("sweep", lambda: said.append(services.worker.sweep())))
    assert said == ["0 removed, 0 missing, 0 found again"]
    return faults


@contextmanager
def called_names() -> Iterator[set[str]]:
    """Collect the names of the addresses of ours that are called."""
    names: set[str] = set()

    def note(environ: Any, **_: object) -> None:
        match = resolve(environ["PATH_INFO"])
        if match.namespace == "coderepos":
            names.add(str(match.url_name))

    request_started.connect(note)
    try:
        yield names
    finally:
        request_started.disconnect(note)
