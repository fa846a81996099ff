"""Composition: what is connected to what when Django starts."""

from __future__ import annotations

import logging
from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate, pre_delete

logger = logging.getLogger(__name__)


class CodeReposConfig(AppConfig):
    """The app, under the label that migrations freeze."""

    name = "coderepos"
    verbose_name = "Code repositories"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the checks, the schedules and the start of workers; close the process that will fork them."""
        from coderepos import checks, queues
        from coderepos.checks.types import is_dict
        from coderepos.conf import ConfigurationError, conf
        from coderepos.crypto.process import close_process

        checks.register()
        post_migrate.connect(_after_migrate, sender=self, dispatch_uid="coderepos.schedules")
        pre_delete.connect(_before_delete, sender="coderepos.CodeRepository", dispatch_uid="coderepos.disconnected")
        if not is_dict() or not isinstance(conf.QUEUE, str):
            return  # a system check says what is wrong
        try:
            queues.on_worker_start(_at_worker_start)
        except ConfigurationError as error:
            logger.critical("No worker will be notified: %s", error)  # a system check says so too
            return
        if queues.current().is_cluster():
            close_process()


def _after_migrate(*, using: str, **_: Any) -> None:
    from coderepos import models, queues

    if using != models.alias():
        return
    if models.tables_exist():
        queues.ensure_periodic()
    else:
        queues.current().forget()


def _before_delete(*, instance: Any, using: str, **_: Any) -> None:
    from coderepos.services.repositories.disconnecting import record_disconnection

    record_disconnection(instance, using=using)


def _at_worker_start() -> None:
    from coderepos import services
    from coderepos.crypto.process import close_process

    close_process()
    services.worker.start_worker()
