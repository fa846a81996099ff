"""Every error as one body: ``{"detail": {"error": code, "message": sentence, …}}``, our own and the framework's alike.

The handler belongs to our views alone; the host's ``EXCEPTION_HANDLER`` stays what it is.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from django.core import exceptions as django_errors
from django.core.signals import got_request_exception
from django.db import OperationalError
from django.http import Http404, UnreadablePostError
from rest_framework import exceptions, status
from rest_framework.response import Response
from rest_framework.serializers import as_serializer_error
from rest_framework.settings import api_settings
from rest_framework.views import set_rollback

from coderepos.api.statuses import STATUS
from coderepos.exceptions import (
    BUSY_SECONDS,
    CodeReposError,
    DatabaseBusy,
    InternalError,
    NotFound,
    PermissionDenied,
    Throttled,
)
from coderepos.models.locking import is_busy

NON_FIELD_ERRORS: Final = "non_field_errors"
"""Name under which ``fields`` has what concerns no field alone, whatever the host calls it."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What an error looks like from outside."""

    status: int
    code: str
    message: str
    fields: Mapping[str, object] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


def handle_exception(error: Exception, context: Mapping[str, Any]) -> Response:
    """Return the answer to any exception of a view, and undo the request's transaction.

    Unexpected exceptions end here as well, since Django's debug page would show the body of the request: they are
    logged with their traceback, and reported like any other uncaught exception.
    """
    answer = describe(error)
    if answer.status == status.HTTP_500_INTERNAL_SERVER_ERROR:
        logger.error("Unexpected error in %s", type(context.get("view")).__name__, exc_info=error)
        request = context.get("request")
        got_request_exception.send(sender=type(context.get("view")), request=getattr(request, "_request", request))
    elif answer.code == DatabaseBusy.code:
        logger.warning("The database was busy in %s: %s", type(context.get("view")).__name__, error.__cause__ or error)
    set_rollback()
    return Response(
        {"detail": {"error": answer.code, "message": answer.message, **answer.fields}},
        status=answer.status,
        headers=dict(answer.headers),
    )


def describe(error: Exception) -> Answer:
    """Return the answer for ``error``, of whatever library it is."""
    match error:
        case CodeReposError():
            return _ours(error)
        case django_errors.ValidationError():
            # Of a service, which knows the row: a user name that is its token, for one.
            return describe(exceptions.ValidationError(as_serializer_error(error)))
        case django_errors.SuspiciousOperation() | django_errors.BadRequest() | UnreadablePostError():
            return _invalid("The request cannot be read.")
        case Http404():
            return _ours(NotFound())
        case django_errors.PermissionDenied():
            return _ours(PermissionDenied())
        case OperationalError() if is_busy(error):
            return _ours(DatabaseBusy(retry_after_seconds=BUSY_SECONDS))
        case exceptions.APIException() if error.status_code < 500:
            return _of_rest_framework(error)
        case _:
            return _ours(InternalError("Something went wrong on our side; the operator finds the details in the log."))


def _of_rest_framework(error: exceptions.APIException) -> Answer:
    match error:
        case exceptions.ValidationError():
            return Answer(
                status=400,
                code="invalid_request",
                message="The request has invalid values; see the fields.",
                fields={"fields": _sentences_by_field(error.detail)},
            )
        case exceptions.ParseError():
            return _invalid("The body of the request cannot be read as what its content type says.")
        case exceptions.NotFound():
            return _ours(NotFound())
        case exceptions.NotAuthenticated() | exceptions.AuthenticationFailed():
            challenge = getattr(error, "auth_header", None)
            return Answer(
                status=error.status_code,
                code="not_authenticated",
                message=" ".join(_sentences(error.detail)),
                headers={"WWW-Authenticate": challenge} if challenge else {},
            )
        case exceptions.Throttled():
            return _throttled(getattr(error, "wait", None))
        case exceptions.UnsupportedMediaType():
            return Answer(
                status=error.status_code,
                code=error.default_code,
                message="This content type is not supported; send application/json.",
            )
        case _:
            return Answer(status=error.status_code, code=error.default_code, message=" ".join(_sentences(error.detail)))


def _ours(error: CodeReposError) -> Answer:
    seconds = error.fields.get("retry_after_seconds")
    return Answer(
        status=STATUS[error.code],
        code=error.code,
        message=error.message,
        fields=error.fields,
        headers={} if seconds is None else {"Retry-After": str(seconds)},
    )


def _invalid(message: str) -> Answer:
    return Answer(status=400, code="invalid_request", message=message, fields={"fields": {}})


def _throttled(wait_seconds: float | None) -> Answer:
    # RFC 9110, section 10.2.3: whole seconds; rounded up, so that a caller that waits them out is let in.
    seconds = {} if wait_seconds is None else {"retry_after_seconds": math.ceil(wait_seconds)}
    return _ours(Throttled("Too many requests lately; try again later.", **seconds))


def _sentences_by_field(detail: Any) -> dict[str, list[str]]:
    if not isinstance(detail, Mapping):
        detail = {NON_FIELD_ERRORS: detail}
    return {
        NON_FIELD_ERRORS if name == api_settings.NON_FIELD_ERRORS_KEY else str(name): _sentences(value)
        for name, value in detail.items()
    }


def _sentences(detail: Any) -> list[str]:
    if isinstance(detail, Mapping):
        detail = list(detail.values())
    if isinstance(detail, list):
        return [sentence for item in detail for sentence in _sentences(item)]
    return [str(detail)]
