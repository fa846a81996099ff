"""The setting ``QUEUE`` chooses the queue; one that cannot be used is said to be so."""

from __future__ import annotations

import uuid

import pytest
from django.apps import apps
from pytest_django import Settings

from coderepos import checks, queues
from coderepos.conf import ConfigurationError
from coderepos.queues.protocol import Queue, QueueFacts, TaskName


class Bell(Queue):
    """A queue with no feature but the one that it must have."""

    def enqueue(self, name: TaskName, key: uuid.UUID) -> None:
        """Do nothing."""

    def facts(self) -> QueueFacts:
        """Know nothing."""
        return QueueFacts(reachable=True, waiting=None)


@pytest.mark.parametrize(
    "path", ["", "nowhere", "nowhere.Queue", "coderepos.queues.Missing", "coderepos.conf.conf", "builtins.dict"]
)
def test_what_is_no_queue_is_an_error_of_the_check(settings: Settings, path: str) -> None:
    """A path that leads to no class is one clear message."""
    settings.CODEREPOS = {**settings.CODEREPOS, "QUEUE": path}

    (message,) = checks.check_queue()

    assert message.id == "coderepos.E018"


def test_queue_of_a_host(settings: Settings) -> None:
    """A host writes an adapter of its own; a feature that it lacks is left to the upkeep."""
    settings.CODEREPOS = {**settings.CODEREPOS, "QUEUE": f"{__name__}.Bell"}

    queue = queues.current()

    assert isinstance(queue, Bell)
    assert queues.current() is queue
    assert checks.check_queue() == []
    assert queue.periodic({}) is False
    assert queue.forget() == {}


def test_missing_app_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter of django-q2 without that app says what to add."""
    queues._load.cache_clear()
    monkeypatch.setattr(apps, "is_installed", lambda name: name != "django_q")

    with pytest.raises(ConfigurationError, match='Add "django_q" to INSTALLED_APPS'):
        queues.current()
