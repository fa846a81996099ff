"""One address for load balancers and monitors: whether the database answers, and a worker is alive."""

from __future__ import annotations

from django.db import Error
from django.db.models import Value
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from coderepos.models import Job, Node


@never_cache
@require_safe
def health(request: HttpRequest) -> JsonResponse:
    """Answer 200 when the database answers, a worker is alive and what is due gets done; else 503.

    The body names what is missing, so that a monitor can tell a dead worker from a dead database, and workers that live
    but take no job (``stalled``) from both.
    """
    try:
        worker = _worker()
        database = "ok"
    except Error:
        worker, database = "unknown", "unreachable"
    return JsonResponse(
        {"database": database, "worker": worker},
        status=200 if (database, worker) == ("ok", "ok") else 503,
    )


def _worker() -> str:
    """Return what is known of the workers, by one query.

    A heartbeat of a running job counts as much as the upkeep, and keeps a backlog from looking like a
    standstill.
    """
    found = set(
        Node.objects.alive()
        .order_by()
        .values_list(Value("alive"))
        .union(
            Job.objects.with_recent_heartbeat().values_list(Value("busy")),
            Job.objects.overdue().order_by().values_list(Value("overdue")),
        )
        .order_by()
    )
    signs = {sign for (sign,) in found}
    if not signs & {"alive", "busy"}:
        return "absent"
    return "stalled" if "overdue" in signs and "busy" not in signs else "ok"
