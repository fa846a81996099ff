"""Fixtures that every test may use."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

import pytest
from django.db import connection


@pytest.fixture
def child_environment(transactional_db: None) -> dict[str, str]:
    """The environment of a Django process that works on the test database, such as a real cluster of workers."""
    name = str(connection.settings_dict["NAME"])
    if connection.vendor == "sqlite":
        url = f"sqlite:///{name}"
    else:
        url = urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{name}").geturl()
    return {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", "DATABASE_URL": url}
