"""Taking the app out again, and what comes too early or too late for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.host_project import MOUNTED, HostProject, Refused

STRAY = """
    from django_q.tasks import async_task, result
    task = async_task("coderepos.tasks.reap")
    after = async_task("math.floor", 2.5)
    assert result(task, wait=20_000) == "not installed", result(task)
    assert result(after, wait=20_000) == 2
"""

TABLES = "from django.db import connection\nprint(connection.introspection.table_names())"


@pytest.fixture
def host(tmp_path: Path) -> HostProject:
    """An empty project with the app and its own projects."""
    host = HostProject(tmp_path)
    host.configure(MOUNTED)
    host.configure('INSTALLED_APPS += ["coderepos.projects"]\n')
    return host


def mark_root(host: HostProject) -> Path:
    """Let a worker's start mark the sandbox root, and return it."""
    host.python(
        "from coderepos.services.disk import this_machine\nthis_machine.prepare_root(this_machine.register_node())\n"
    )
    assert (host.folder / "repos/.coderepos-root").exists()
    return host.folder / "repos"


@pytest.mark.slow
def test_task_before_the_tables_are_made(host: HostProject) -> None:
    """Where only the queue has its tables, a task of ours is a line in the log, and the worker goes on."""
    host.manage("migrate", "django_q")
    with host.running("qcluster"):
        host.python(STRAY)

    log = (host.folder / "qcluster.log").read_text()
    assert log.count("reap is skipped: coderepos is not installed here, or not migrated") == 1


@pytest.mark.slow
def test_task_after_the_app_went(host: HostProject) -> None:
    """A task that waited when the app was taken out of the settings ends no worker."""
    host.manage("migrate")
    host.manage("coderepos_uninstall", "--noinput")
    host.configure('INSTALLED_APPS = [app for app in INSTALLED_APPS if not app.startswith("coderepos")]\n')

    with host.running("qcluster"):
        host.python(STRAY)


@pytest.mark.slow
def test_tables_that_go_take_their_schedules_along(host: HostProject) -> None:
    """Who only runs ``migrate coderepos zero`` has no schedule left either, and gets them back with the tables."""
    count = "from django_q.models import Schedule\nprint('schedules', Schedule.objects.count())\n"
    host.manage("migrate")
    assert "schedules 2" in host.python(count)

    host.manage("migrate", "coderepos", "zero")
    assert "schedules 0" in host.python(count)
    host.manage("migrate")
    assert "schedules 2" in host.python(count)


@pytest.mark.slow
def test_nothing_goes_without_a_yes(host: HostProject) -> None:
    """The question is asked, and no answer is none."""
    host.manage("migrate")

    with pytest.raises(Refused, match="EOF"):
        host.manage("coderepos_uninstall")
    assert "code_repos" in host.python(
        "from django.db import connection\nprint(connection.introspection.table_names())"
    )


@pytest.mark.slow
def test_root_of_another_installation_stays(host: HostProject) -> None:
    """A root with a foreign marker is not touched, and nothing else goes either; ours may be cleared alone."""
    host.manage("migrate")
    root = mark_root(host)
    marker = root / ".coderepos-root"
    ours = marker.read_text()
    marker.write_text("00000000-0000-4000-8000-000000000000\n")

    with pytest.raises(Refused, match="belongs to another installation"):
        host.manage("coderepos_uninstall", "--noinput")
    assert marker.exists()

    marker.write_text(ours)
    (root / "kept.txt").write_text("of somebody else")
    assert "0 sandboxes removed" in host.manage("coderepos_uninstall", "--noinput", "--disk-only")
    assert [path.name for path in root.iterdir()] == ["kept.txt"]
    assert "code_repos" in host.python(
        "from django.db import connection\nprint(connection.introspection.table_names())"
    )
