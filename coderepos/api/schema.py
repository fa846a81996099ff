"""The OpenAPI description of the endpoints; imported by ``urls`` where drf-spectacular is installed, by nobody else.

The views stay free of it: each extension hands drf-spectacular an annotated subclass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

from drf_spectacular.drainage import set_override
from drf_spectacular.extensions import OpenApiSerializerFieldExtension, OpenApiViewExtension
from drf_spectacular.plumbing import ResolvedComponent
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.settings import api_settings

from coderepos.api.health import HealthSerializer
from coderepos.api.listing import AllRepositoriesQuery, RepositoryQuery
from coderepos.api.schema_errors import (
    CANCEL,
    CHANGE,
    CLEAN,
    CLONE,
    CONNECT,
    DISCONNECT,
    READ,
    REPLACE,
    WRITE,
    ErrorDetailSerializer,
    ErrorSerializer,
    error_responses,
)
from coderepos.api.serializers import (
    AuditEntrySerializer,
    ChangeSerializer,
    CleaningSerializer,
    ConnectedSerializer,
    ConnectSerializer,
    JobSerializer,
    JobStartedSerializer,
    ProgressSerializer,
    ReplaceTokenSerializer,
    RepositorySerializer,
    StatusSerializer,
    TokenSerializer,
)

PREFIX: Final = "CodeRepos"
"""What the name of every component starts with; operation ids start with ``coderepos_``."""

TAGS: Final = ["Code repositories"]
REPO_ID: Final = OpenApiParameter("repo_id", str, OpenApiParameter.PATH, description="UUID of the repository.")
PROJECT_ID: Final = OpenApiParameter("project_id", str, OpenApiParameter.PATH, description="Key of the project.")

for _serializer in (
    AuditEntrySerializer,
    ChangeSerializer,
    CleaningSerializer,
    ConnectedSerializer,
    ConnectSerializer,
    ErrorDetailSerializer,
    ErrorSerializer,
    HealthSerializer,
    JobSerializer,
    ProgressSerializer,
    ReplaceTokenSerializer,
    RepositorySerializer,
    JobStartedSerializer,
    StatusSerializer,
    TokenSerializer,
):
    set_override(_serializer, "component_name", PREFIX + _serializer.__name__.removesuffix("Serializer"))


class PrefixedSchema(api_settings.DEFAULT_SCHEMA_CLASS):  # type: ignore[name-defined,misc]  # the host's own class
    """Names every component so that it meets none of the host's."""

    def get_paginated_name(self, serializer_name: str) -> str:
        """Return the name of a page of something."""
        return f"{serializer_name}Page"

    def _get_serializer_name(self, *args: Any, **kwargs: Any) -> str:
        # Of a PATCH the generator puts a word of its own in front.
        return str(super()._get_serializer_name(*args, **kwargs)).removeprefix("Patched")


class NamedChoiceExtension(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]  # its __init_subclass__
    """Describes a choice as a component of its own, since the generator would name it after the field alone."""

    target_class = "coderepos.api.fields.NamedChoiceField"

    def map_serializer_field(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        """Return a reference to the component."""
        component = ResolvedComponent(  # type: ignore[no-untyped-call]
            name=PREFIX + self.target.choice_name,
            type=ResolvedComponent.SCHEMA,
            object=self.target.choice_name,
            schema={"type": "string", "enum": list(self.target.choices)},
        )
        auto_schema.registry.register_on_missing(component)
        return component.ref


def _described(view: type[Any], **descriptions: Callable[[Any], Any]) -> type[Any]:
    """Return a subclass of ``view`` whose methods carry ``descriptions``; those of ``view`` itself stay as they are."""

    def override(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(self: Any, request: Any, **kwargs: Any) -> Any:
            return method(self, request, **kwargs)

        call.schema = PrefixedSchema  # type: ignore[attr-defined]  # where extend_schema looks for it
        return call

    methods = {name: describe(override(getattr(view, name))) for name, describe in descriptions.items()}
    return type(view.__name__, (view,), methods)


class ConnectExtension(OpenApiViewExtension):  # type: ignore[no-untyped-call]  # its __init_subclass__
    """Describes the connect call."""

    target_class = "coderepos.api.views.ConnectViewSet"

    def view_replacement(self) -> type[Any]:
        """Return the annotated view."""
        return _described(
            self.target,
            connect=extend_schema(
                operation_id="coderepos_connect_repository",
                summary="Connect a repository",
                tags=TAGS,
                request=ConnectSerializer,
                responses={201: ConnectedSerializer, **error_responses(CONNECT)},
            ),
        )


class RepositoryExtension(OpenApiViewExtension):  # type: ignore[no-untyped-call]  # its __init_subclass__
    """Describes the calls about connected repositories."""

    target_class = "coderepos.api.views.RepositoryViewSet"

    def view_replacement(self) -> type[Any]:
        """Return the annotated view."""
        return _described(
            self.target,
            list=extend_schema(
                operation_id="coderepos_list_repositories",
                summary="List the repositories of all projects",
                tags=TAGS,
                parameters=[AllRepositoriesQuery],
                responses={200: RepositorySerializer(many=True), **error_responses((*READ, "invalid_request"))},
            ),
            list_of_project=extend_schema(
                operation_id="coderepos_list_project_repositories",
                summary="List the repositories of a project",
                tags=TAGS,
                parameters=[PROJECT_ID, RepositoryQuery],
                responses={200: RepositorySerializer(many=True), **error_responses((*READ, "invalid_request"))},
            ),
            retrieve=extend_schema(
                operation_id="coderepos_get_repository",
                summary="Get the details of a repository",
                tags=TAGS,
                parameters=[REPO_ID],
                responses={200: RepositorySerializer, **error_responses(READ)},
            ),
            change=extend_schema(
                operation_id="coderepos_change_repository",
                summary="Change what is cloned of a repository",
                tags=TAGS,
                parameters=[REPO_ID],
                request=ChangeSerializer,
                responses={202: JobStartedSerializer, **error_responses(CHANGE)},
            ),
            status=extend_schema(
                operation_id="coderepos_get_repository_status",
                summary="Get the status of a repository",
                tags=TAGS,
                parameters=[REPO_ID],
                responses={200: StatusSerializer, **error_responses(READ)},
            ),
            jobs=extend_schema(
                operation_id="coderepos_list_repository_jobs",
                summary="List the jobs of a repository",
                tags=TAGS,
                parameters=[REPO_ID],
                responses={200: JobSerializer(many=True), **error_responses(READ)},
            ),
            audit=extend_schema(
                operation_id="coderepos_list_repository_audit",
                summary="List the audit trail of a repository",
                tags=TAGS,
                parameters=[REPO_ID],
                responses={200: AuditEntrySerializer(many=True), **error_responses(WRITE)},
            ),
            clone=extend_schema(
                operation_id="coderepos_clone_repository",
                summary="Clone a repository again",
                tags=TAGS,
                parameters=[REPO_ID],
                request=None,
                responses={202: JobStartedSerializer, **error_responses(CLONE)},
            ),
            cancel=extend_schema(
                operation_id="coderepos_cancel_repository",
                summary="Cancel the job of a repository",
                tags=TAGS,
                parameters=[REPO_ID],
                request=None,
                responses={202: JobStartedSerializer, **error_responses(CANCEL)},
            ),
            clean=extend_schema(
                operation_id="coderepos_clean_repository",
                summary="Remove the clone of a repository",
                tags=TAGS,
                parameters=[REPO_ID],
                request=None,
                responses={202: CleaningSerializer, **error_responses(CLEAN)},
            ),
            disconnect=extend_schema(
                operation_id="coderepos_disconnect_repository",
                summary="Delete a repository",
                tags=TAGS,
                parameters=[REPO_ID],
                responses={204: OpenApiResponse(description="Deleted."), **error_responses(DISCONNECT)},
            ),
        )


class TokenExtension(OpenApiViewExtension):  # type: ignore[no-untyped-call]  # its __init_subclass__
    """Describes the call that replaces a token."""

    target_class = "coderepos.api.views.TokenViewSet"

    def view_replacement(self) -> type[Any]:
        """Return the annotated view."""
        return _described(
            self.target,
            replace=extend_schema(
                operation_id="coderepos_replace_repository_token",
                summary="Replace the token of a repository",
                tags=TAGS,
                parameters=[REPO_ID],
                request=ReplaceTokenSerializer,
                responses={200: TokenSerializer, **error_responses(REPLACE)},
            ),
        )


class HealthExtension(OpenApiViewExtension):  # type: ignore[no-untyped-call]  # its __init_subclass__
    """Describes the call of load balancers."""

    target_class = "coderepos.api.health.HealthView"

    def view_replacement(self) -> type[Any]:
        """Return the annotated view."""
        return _described(
            self.target,
            get=extend_schema(
                operation_id="coderepos_get_health",
                summary="Ask whether jobs get done",
                tags=TAGS,
                auth=[],
                responses={200: HealthSerializer, 503: HealthSerializer},
            ),
        )
