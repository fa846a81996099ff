"""Fixtures that every test may use."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.conf import settings
from pytest_django import DjangoAssertNumQueries, DjangoCaptureOnCommitCallbacks

from coderepos.sandbox.root import SandboxRoot
from coderepos.sandbox.sandbox import remove_root
from tests.support import emptying
from tests.support.database import ALIAS, connection

pytest_plugins = ["tests.support.selection"]

# Another thread, of a server or a worker, may hold a lock of the tracer that measures coverage; a process that a test
# forks at that moment would wait for it for ever. A function of Python would be traced itself.
os.register_at_fork(after_in_child=partial(sys.settrace, None))

emptying.install()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let every test that may use a database use all of them, where the settings have several."""
    if len(settings.DATABASES) == 1:
        return
    for item in items:
        marker = item.get_closest_marker("django_db")
        if marker or {"db", "transactional_db"} & set(getattr(item, "fixturenames", ())):
            values = {**(marker.kwargs if marker else {}), "databases": "__all__"}
            item.add_marker(pytest.mark.django_db(**values), append=False)


def pytest_collection_finish() -> None:
    """Keep what stays for the whole run away from the garbage collector, which many tests call."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def empty_sandbox_root() -> None:
    """Remove what an earlier test left in the sandbox root of the settings: its marker is of a machine that is gone."""
    root = SandboxRoot(Path(settings.CODEREPOS["SANDBOX_BASE_PATH"]), None)
    if (marker := root.read_marker()) is not None:
        remove_root(root, [marker])


@pytest.fixture
def django_capture_on_commit_callbacks(
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> Callable[..., Any]:
    """As of pytest-django, in the database of our tables."""
    return partial(django_capture_on_commit_callbacks, using=ALIAS)


@pytest.fixture
def django_assert_num_queries(django_assert_num_queries: DjangoAssertNumQueries) -> Callable[..., Any]:
    """As of pytest-django, in the database of our tables."""
    return partial(django_assert_num_queries, connection=connection)


@pytest.fixture
def django_assert_max_num_queries(django_assert_max_num_queries: DjangoAssertNumQueries) -> Callable[..., Any]:
    """As of pytest-django, in the database of our tables."""
    return partial(django_assert_max_num_queries, connection=connection)


@pytest.fixture
def child_environment(transactional_db: None) -> dict[str, str]:
    """The environment of a Django process that works on the test database, such as a real cluster of workers."""
    name = str(connection.settings_dict["NAME"])
    if connection.vendor == "sqlite":
        url = f"sqlite:///{name}"
    else:
        url = urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{name}").geturl()
    return {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", "DATABASE_URL": url}
