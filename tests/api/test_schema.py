"""The OpenAPI description: complete, and made without warnings."""

from __future__ import annotations

from typing import Any

import pytest
from drf_spectacular.drainage import GENERATOR_STATS, reset_generator_stats
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.validation import validate_schema

from coderepos.api.errors import STATUS
from tests.api.conftest import ADDRESS

OPERATIONS = {
    ("post", "/connect"): "connect_repository",
    ("get", "/repos"): "list_repositories",
    ("get", "/repos/{repo_id}"): "get_repository",
    ("get", "/repos/{repo_id}/status"): "get_repository_status",
    ("get", "/repos/{repo_id}/jobs"): "list_repository_jobs",
    ("get", "/repos/{repo_id}/audit"): "list_repository_audit",
    ("put", "/repos/{repo_id}/token"): "replace_repository_token",
    ("post", "/repos/{repo_id}/clone"): "clone_repository",
    ("get", "/projects/{project_id}/repos"): "list_project_repositories",
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
        assert operation["description"]
        assert all(answer.get("content") for answer in operation["responses"].values())


def test_body_of_a_connect_call(schema: dict[str, Any]) -> None:
    """URL and project are required, the token goes in only, and the answer has none."""
    body = schema["components"]["schemas"]["Connect"]

    assert set(body["required"]) == {"git_url", "project_id"}
    assert body["properties"]["access_token"]["writeOnly"] is True
    for name, component in schema["components"]["schemas"].items():
        assert name in ("Connect", "ReplaceToken") or "access_token" not in component.get("properties", {})


def test_sizes_are_numbers_and_times_are_times(schema: dict[str, Any]) -> None:
    """The types of the answers are the ones that are sent."""
    properties = schema["components"]["schemas"]["Repository"]["properties"]

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

    common = {"status", "platform", "search", "ordering", "page", "page_size"}
    assert names["get", "/repos"] == common | {"project"}
    assert names["get", "/projects/{project_id}/repos"] == common | {"project_id"}
    assert names["get", "/repos/{repo_id}/jobs"] == {"repo_id", "page", "page_size"}
