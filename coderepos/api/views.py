"""The endpoints: each finds what the caller may see, calls one service, and answers.

Every view answers errors in the shape of :mod:`coderepos.api.errors`, and demands an authenticated caller whatever the
host's defaults are. How callers authenticate and which further throttles there are is the host's; a body is JSON.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, Final

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.decorators import method_decorator
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from rest_framework.exceptions import ValidationError
from rest_framework.metadata import SimpleMetadata
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.permissions import IsAuthenticated
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework.throttling import BaseThrottle
from rest_framework.viewsets import GenericViewSet

from coderepos import access, services
from coderepos.access import Action
from coderepos.api import formats
from coderepos.api.errors import handle_exception
from coderepos.api.listing import filter_repositories
from coderepos.api.pagination import KeysetPagination
from coderepos.api.serializers import (
    AuditEntrySerializer,
    CleaningSerializer,
    ConnectedSerializer,
    ConnectSerializer,
    JobSerializer,
    JobStartedSerializer,
    ReplaceTokenSerializer,
    RepositorySerializer,
    TokenSerializer,
    status_body,
)
from coderepos.api.throttling import ConnectThrottle
from coderepos.exceptions import NotFound
from coderepos.models import AuditEntry, CodeRepository, Job
from coderepos.models.repository_queryset import CodeRepositoryQuerySet
from coderepos.services.repositories import probing
from coderepos.services.repositories.status import Status, find_status
from coderepos.services.trail import require

ASKING_ACTIONS: Final = ("connect", "change", "replace")
"""Actions that ask a Git host while the caller waits."""


class CodeReposViewSet(GenericViewSet[Any]):
    """What all endpoints have in common."""

    permission_classes = (IsAuthenticated,)
    filter_backends = ()
    pagination_class = KeysetPagination
    versioning_class = None
    metadata_class = SimpleMetadata
    content_negotiation_class = DefaultContentNegotiation

    @property
    def renderer_classes(self) -> list[type[BaseRenderer]]:  # type: ignore[override]  # the host's are live settings
        """What renders answers."""
        return formats.renderer_classes()

    @property
    def parser_classes(self) -> list[type[BaseParser]]:  # type: ignore[override]  # as above
        """What reads bodies."""
        return formats.parser_classes()

    def get_throttles(self) -> list[BaseThrottle]:
        """Add our limit to the host's, for calls that try credentials on a remote."""
        ours = [ConnectThrottle()] if self.action in ASKING_ACTIONS else []
        self._ours = ours
        return [*super().get_throttles(), *ours]

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        """Read bodies and query strings as UTF-8, whatever codec of Python the content type names."""
        request.encoding = "utf-8"
        return super().initialize_request(request, *args, **kwargs)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Refuse a body that is too large before it is parsed."""
        super().initial(request, *args, **kwargs)
        size_bytes = str(request.META.get("CONTENT_LENGTH") or "")
        if size_bytes.isdecimal() and int(size_bytes) > formats.BODY_BYTES:
            raise formats.too_large()

    def get_exception_handler(self) -> Callable[[Exception, dict[str, Any]], Response]:
        """Answer errors in our shape, whatever the host's handler is."""
        return handle_exception

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Handle a request; while it waits for a Git host it holds no connection to a database."""
        self._ours = []
        with probing.connections_closed() as call:
            answer = super().dispatch(request, *args, **kwargs)
        if answer.status_code >= 400 and not call.asked:
            for throttle in self._ours:
                throttle.give_back()
        return answer

    @sensitive_variables()
    def _read(self, request: Request) -> dict[str, Any]:
        """Return the checked body; its token is a ``Secret`` and nothing else in here outlives the call."""
        serializer = self.get_serializer(data=request.data)
        if not serializer.is_valid():
            raise ValidationError(dict(serializer.errors))
        checked: dict[str, Any] = serializer.validated_data
        return checked


@method_decorator(sensitive_post_parameters("access_token"), name="dispatch")
class ConnectViewSet(CodeReposViewSet):
    """Connect a Git repository to a project: it is probed, its token is sealed, and its clone is queued."""

    serializer_class = ConnectSerializer

    @sensitive_variables()
    def connect(self, request: Request, **kwargs: str) -> Response:
        """Connect a repository and queue its first clone."""
        connection = services.connect_repository(user=request.user, **self._read(request))
        return Response(dict(ConnectedSerializer(connection).data), status=201)


class RepositoryViewSet(CodeReposViewSet):
    """The repositories of the projects that the caller may see."""

    serializer_class: type[BaseSerializer[Any]] = RepositorySerializer

    def get_queryset(self) -> CodeRepositoryQuerySet:
        """Return what the caller may see, without tokens."""
        repositories = access.visible_repositories(self.request.user)
        return repositories.without_token().with_token_status().select_related("connected_by")

    def list(self, request: Request, **kwargs: str) -> Response:
        """List the repositories of all projects that the caller may see."""
        return self._page(RepositorySerializer, filter_repositories(self.get_queryset(), request))

    def list_of_project(self, request: Request, **kwargs: str) -> Response:
        """List the repositories of one project."""
        return self._page(
            RepositorySerializer, filter_repositories(self.get_queryset(), request, project_id=kwargs["project_id"])
        )

    def retrieve(self, request: Request, **kwargs: str) -> Response:
        """Return the details of a repository."""
        return Response(dict(RepositorySerializer(self._repository()).data))

    def status(self, request: Request, **kwargs: str) -> Response:
        """Say what happens to a repository now, and why."""
        return Response(status_body(self._status()))

    def jobs(self, request: Request, **kwargs: str) -> Response:
        """List the jobs of a repository, the newest first."""
        return self._page(JobSerializer, Job.objects.filter(repository_id=self._repository().pk).newest_first())

    def audit(self, request: Request, **kwargs: str) -> Response:
        """List what was done with a repository and its token, and by whom, the newest first."""
        repository = self._repository()
        require(request.user, Action.AUDIT, repository)
        entries = AuditEntry.objects.filter(repository_id=repository.pk).newest_first()
        return self._page(AuditEntrySerializer, entries)

    def clone(self, request: Request, **kwargs: str) -> Response:
        """Clone a repository again; one that is COMPLETED keeps its version until the new one is published."""
        job = services.clone_repository(user=request.user, repository=self._repository())
        return Response(dict(JobStartedSerializer(job).data), status=202)

    def cancel(self, request: Request, **kwargs: str) -> Response:
        """Cancel the job of a repository that is queued or running; what was published before stays."""
        job = services.cancel_repository(user=request.user, repository=self._repository())
        return Response(dict(JobStartedSerializer(job).data), status=202)

    def clean(self, request: Request, **kwargs: str) -> Response:
        """Remove the clone of a repository from the disk; its row and its token stay, and it can be cloned again."""
        repository = services.clean_repository(user=request.user, repository=self._repository())
        return Response(dict(CleaningSerializer(repository).data), status=202)

    def disconnect(self, request: Request, **kwargs: str) -> Response:
        """Delete a repository with its token, its history and its clone; the audit trail stays."""
        services.disconnect_repository(user=request.user, repository=self._repository())
        return Response(status=204)

    def get_object(self) -> CodeRepository:
        """Return the repository in the path, for what describes the endpoint (``OPTIONS``)."""
        return self._repository()

    @sensitive_variables()
    def change(self, request: Request, **kwargs: str) -> Response:
        """Change what is cloned of a repository: its ref, its depth or the user name of its token; clones it so."""
        job = services.change_repository(user=request.user, repository=self._repository(), **self._read(request))
        return Response(dict(JobStartedSerializer(job).data), status=202)

    def _repository(self) -> CodeRepository:
        """Return the repository in the path.

        :raises NotFound: the id is malformed, unknown, or of a project that the caller may not see.
        """
        repository = self.get_queryset().filter(pk=repository_id(self.kwargs["repo_id"])).first()
        if repository is None:
            raise NotFound
        return repository

    def _status(self) -> Status:
        return find_status(repository_id(self.kwargs["repo_id"]), visible_to=self.request.user)

    def _page(self, serializer_class: type[Any], rows: Any) -> Response:
        return self.get_paginated_response(serializer_class(self.paginate_queryset(rows), many=True).data)


@method_decorator(sensitive_post_parameters("access_token"), name="dispatch")
class TokenViewSet(RepositoryViewSet):
    """The token of a repository: it goes in, and never comes out."""

    serializer_class = ReplaceTokenSerializer

    @sensitive_variables()
    def replace(self, request: Request, **kwargs: str) -> Response:
        """Replace the token of a repository, after the Git host took the new one."""
        replaced = services.replace_token(user=request.user, repository=self._repository(), **self._read(request))
        return Response(dict(TokenSerializer(replaced).data))


def repository_id(text: str) -> uuid.UUID:
    """Return the id that is written in its one canonical form, in either case.

    :raises NotFound: the text is not such an id.
    """
    try:
        value = uuid.UUID(text)
    except ValueError:
        raise NotFound from None
    if str(value) != text.lower():
        raise NotFound
    return value
