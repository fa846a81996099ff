"""What the storage for packs lacks, and whether it answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from django.db.models import ExpressionWrapper, F, fields
from django.db.models.functions import Now

from coderepos.conf import ConfigurationError, conf
from coderepos.exceptions import StorageUnavailable
from coderepos.models import PackState, StoredPack
from coderepos.models.stored_pack import SETTLE_SECONDS, unstored
from coderepos.services.health.finding import Finding, failing, ok, warning
from coderepos.services.packs.storage import pack_storage

LATE_SECONDS: Final = 900
"""How long a version may be published, or bytes may be unwanted, before somebody should look."""

_TRIAL: Final = "health"
"""A name under which there is nothing."""


def storage_findings() -> Iterator[Finding]:
    """Yield findings ``storage``: what is not stored or not removed yet, and whether the storage answers."""
    if not conf.PACK_STORAGE:
        yield ok("storage", "there is no PACK_STORAGE: each clone is on the disk of one machine alone")
        return
    yield _backlog()
    try:
        storage = pack_storage()
        if storage is not None:
            storage.exists(_TRIAL)
    except ConfigurationError as error:
        yield failing("storage", str(error))
    except StorageUnavailable as error:
        yield warning("storage", error.message)
    else:
        yield ok("storage", "it answers")


def _backlog() -> Finding:
    waiting = unstored().count()
    leaving = StoredPack.objects.filter(state=PackState.LEAVING)
    overdue = _oldest_seconds(leaving, "left_at") - SETTLE_SECONDS
    late = _oldest_seconds(StoredPack.objects.filter(state=PackState.UPLOADING), "created_at")
    values = {"unstored": waiting, "unstored_seconds": late, "leaving": leaving.count()}
    text = f"{waiting} versions are not stored yet, the bytes of {values['leaving']} are leaving"
    if late > LATE_SECONDS:
        return warning("storage", f"{text}; the oldest has waited for {late // 60} min", **values)
    if overdue > LATE_SECONDS:
        return warning("storage", f"{text}; the oldest should have been gone for {overdue // 60} min", **values)
    return ok("storage", text, **values)


def _oldest_seconds(rows: object, column: str) -> int:
    age = ExpressionWrapper(Now() - F(column), output_field=fields.DurationField())
    oldest = rows.order_by(column).values_list(age, flat=True).first()  # type: ignore[attr-defined]
    return round(oldest.total_seconds()) if oldest else 0
