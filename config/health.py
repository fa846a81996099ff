"""One address for load balancers and monitors: does the database answer, and is a worker alive?"""

from __future__ import annotations

from django.db import Error
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from coderepos.models import Node


@never_cache
@require_safe
def health(request: HttpRequest) -> JsonResponse:
    """Answer 200 when the database answers and a worker's reaper ran in the last three minutes, else 503.

    The body names which of the two is missing, so that a monitor can tell a dead worker from a dead database.
    """
    try:
        worker = "ok" if Node.objects.alive().exists() else "absent"
        database = "ok"
    except Error:
        worker, database = "unknown", "unreachable"
    return JsonResponse(
        {"database": database, "worker": worker},
        status=200 if (database, worker) == ("ok", "ok") else 503,
    )
