"""The OpenAPI description: complete, and made without warnings."""

from __future__ import annotations

from typing import Any

import pytest
from django.urls import include, path
from drf_spectacular.drainage import GENERATOR_STATS, reset_generator_stats
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.utils import extend_schema
from drf_spectacular.validation import validate_schema
from rest_framework import serializers
from rest_framework.generics import GenericAPIView

from coderepos.api.statuses import STATUS
from tests.api.conftest import ADDRESS

OPERATIONS = {
    ("post", "/connect"): "coderepos_connect_repository",
    ("get", "/repos"): "coderepos_list_repositories",
    ("get", "/repos/{repo_id}"): "coderepos_get_repository",
    ("patch", "/repos/{repo_id}"): "coderepos_change_repository",
    ("get", "/repos/{repo_id}/status"): "coderepos_get_repository_status",
    ("get", "/repos/{repo_id}/jobs"): "coderepos_list_repository_jobs",
    ("get", "/repos/{repo_id}/audit"): "coderepos_list_repository_audit",
    ("put", "/repos/{repo_id}/token"): "coderepos_replace_repository_token",
    ("post", "/repos/{repo_id}/clone"): "coderepos_clone_repository",
    ("post", "/repos/{repo_id}/clean"): "coderepos_clean_repository",
    ("delete", "/repos/{repo_id}"): "coderepos_disconnect_repository",
    ("post", "/repos/{repo_id}/cancel"): "coderepos_cancel_repository",
    ("get", "/projects/{project_id}/repos"): "coderepos_list_project_repositories",
    ("get", "/health"): "coderepos_get_health",
}


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """The description, as tools get it."""
    reset_generator_stats()
    generator: Any = SchemaGenerator
    description: dict[str, Any] = generator().get_schema(request=None, public=True)
    return description


@pytest.fixture(scope="module")
def operations(schema: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Our operations by method and path."""
    return {
        (method, path.removeprefix(ADDRESS)): operation
        for path, methods in schema["paths"].items()
        if path.startswith(ADDRESS)
        for method, operation in methods.items()
    }


def test_description_is_valid_and_made_without_a_warning(schema: dict[str, Any]) -> None:
    """The generator has nothing to complain about, and the result is valid OpenAPI."""
    validate: Any = validate_schema
    validate(schema)

    assert not GENERATOR_STATS


def test_every_address_is_described(operations: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Each operation has a stable id, a summary of its own words, and a description of every answer."""
    assert {key: operation["operationId"] for key, operation in operations.items()} == OPERATIONS
    for operation in operations.values():
        assert operation["summary"]
        assert operation["description"]
        assert all(answer.get("content") for status, answer in operation["responses"].items() if status != "204")


def test_body_of_a_connect_call(schema: dict[str, Any]) -> None:
    """URL and project are required, the token goes in only, and the answer has none."""
    body = schema["components"]["schemas"]["CodeReposConnect"]

    assert set(body["required"]) == {"git_url", "project_id"}
    assert body["properties"]["access_token"]["writeOnly"] is True
    for name, component in schema["components"]["schemas"].items():
        assert name in ("CodeReposConnect", "CodeReposReplaceToken") or "access_token" not in component.get(
            "properties", {}
        )


def test_sizes_are_numbers_and_times_are_times(schema: dict[str, Any]) -> None:
    """The types of the answers are the ones that are sent."""
    properties = schema["components"]["schemas"]["CodeReposRepository"]["properties"]

    assert (properties["repository_size_mb"]["type"], properties["repository_size_mb"]["nullable"]) == ("number", True)
    assert properties["created_at"]["format"] == "date-time"
    assert properties["repo_id"]["format"] == "uuid"
    assert properties["error_message"]["nullable"] is True


def test_errors_are_described_with_their_status(operations: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Every documented error stands under its status with an example of its body."""
    answers = operations["post", "/connect"]["responses"]
    examples = {
        (int(status), code): example["value"]["detail"]
        for status, answer in answers.items()
        if status != "201"
        for code, example in answer["content"]["application/json"]["examples"].items()
    }

    assert set(answers) == {"201", "400", "401", "403", "404", "409", "413", "422", "429", "502", "503", "504"}
    assert len(examples) > 15
    for (status, _), detail in examples.items():
        assert {"error", "message"} <= set(detail)
        assert STATUS.get(detail["error"], status) == status
    assert next(detail for (status, _), detail in examples.items() if status == 413) == {
        "error": "repository_too_large",
        "message": "Repository size 156.8MB exceeds limit of 100MB",
        "estimated_size_mb": 156.8,
        "limit_mb": 100,
    }


def test_filters_are_described(operations: dict[tuple[str, str], dict[str, Any]]) -> None:
    """What a list can be asked for is in the description; the project only where the path does not name it."""
    names = {key: {p["name"] for p in operation.get("parameters", ())} for key, operation in operations.items()}

    common = {"status", "platform", "search", "ordering", "page", "page_size", "cursor"}
    assert names["get", "/repos"] == common | {"project"}
    assert names["get", "/projects/{project_id}/repos"] == common | {"project_id"}
    assert names["get", "/repos/{repo_id}/jobs"] == {"repo_id", "page", "page_size", "cursor"}


def test_every_component_has_our_prefix(schema: dict[str, Any], operations: dict[Any, dict[str, Any]]) -> None:
    """Nothing that our endpoints bring along can be meant by a name of the host's."""
    names = set(schema["components"]["schemas"])

    assert names == {name for name in names if name.startswith("CodeRepos")}
    assert {"CodeReposCloneStatus", "CodeReposRepositoryPage", "CodeReposError"} <= names
    assert all(operation["operationId"].startswith("coderepos_") for operation in operations.values())


def test_a_host_with_the_same_names_keeps_its_own(client: Any) -> None:
    """Serializers, enumerations and operations of a host that are called as ours stay what they are."""

    class JobSerializer(serializers.Serializer[Any]):
        """The host's job."""

        kind = serializers.ChoiceField(["print", "scan"])
        state = serializers.ChoiceField(["open", "done"])
        clone_status = serializers.ChoiceField(["cloned", "sheep"])

    class TokenSerializer(serializers.Serializer[Any]):
        """The host's token."""

        token_status = serializers.ChoiceField(["gold", "silver"])

    class JobView(GenericAPIView[Any]):
        """Answers with the host's job."""

        serializer_class = JobSerializer

        @extend_schema(operation_id="clone_repository", responses=JobSerializer)
        def get(self, request: Any) -> None:
            """Return it."""

    class TokenView(GenericAPIView[Any]):
        """Answers with the host's token."""

        serializer_class = TokenSerializer

        @extend_schema(operation_id="connect_repository", responses=TokenSerializer)
        def get(self, request: Any) -> None:
            """Return it."""

    reset_generator_stats()
    generator: Any = SchemaGenerator
    host = [path("host/job", JobView.as_view()), path("token", TokenView.as_view())]
    both = generator(patterns=[*host, path("code/", include("coderepos.api.urls"))]).get_schema(public=True)
    alone = generator(patterns=host).get_schema(public=True)

    assert not GENERATOR_STATS
    for name, component in alone["components"]["schemas"].items():
        assert both["components"]["schemas"][name] == component
    for address, operation in alone["paths"].items():
        assert both["paths"][address] == operation
