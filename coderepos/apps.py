"""Composition: what is connected to what when Django starts."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig, apps
from django.db.models.signals import post_migrate, pre_delete

from coderepos.conf import ConfigurationError


class CodeReposConfig(AppConfig):
    """The app, under the label that migrations freeze."""

    name = "coderepos"
    verbose_name = "Code repositories"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the checks, the schedules and the start of workers; close the process that will fork them."""
        if not apps.is_installed("django_q"):
            raise ConfigurationError('Add "django_q" to INSTALLED_APPS: coderepos clones in its workers.')
        from coderepos import checks, queue
        from coderepos.crypto.process import close_process

        checks.register()
        post_migrate.connect(_after_migrate, sender=self, dispatch_uid="coderepos.schedules")
        pre_delete.connect(_before_delete, sender="coderepos.CodeRepository", dispatch_uid="coderepos.disconnected")
        queue.on_worker_start(_at_worker_start)
        if queue.is_cluster():
            close_process()


def _after_migrate(*, using: str, **_: Any) -> None:
    from coderepos import models, queue

    if using != models.alias():
        return
    if models.tables_exist():
        queue.ensure_schedules()
    else:
        queue.forget()


def _before_delete(*, instance: Any, using: str, **_: Any) -> None:
    from coderepos.services.disconnecting import record_disconnection

    record_disconnection(instance, using=using)


def _at_worker_start() -> None:
    from coderepos import services
    from coderepos.crypto.process import close_process

    close_process()
    services.worker.start_worker()
