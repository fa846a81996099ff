"""The tree of errors: one class per code, and a sentence each."""

from __future__ import annotations

import pytest

from coderepos import exceptions
from coderepos.exceptions import CodeReposError, LimitExceeded, RepositoryTooLarge, TooManyRefs, error_classes


def subclasses(kind: type[CodeReposError]) -> list[type[CodeReposError]]:
    """Return every class below ``kind`` that the package defines."""
    found = [below for child in kind.__subclasses__() for below in (child, *subclasses(child))]
    return [below for below in found if below.__module__.startswith("coderepos.exceptions.")]


def test_every_error_is_exported() -> None:
    """Each class with a code can be imported from the package, and so can the superclasses that callers catch."""
    exported = {kind for kind in map(vars(exceptions).get, exceptions.__all__) if isinstance(kind, type)}

    assert exported == {CodeReposError, *subclasses(CodeReposError)}


@pytest.mark.parametrize("kind", error_classes().values(), ids=lambda kind: kind.code)
def test_error_has_a_sentence_for_users(kind: type[CodeReposError]) -> None:
    """Without a message of its own an error says its docstring's first paragraph: one sentence, with a full stop."""
    error = kind()

    assert str(error) == error.message
    assert error.message.endswith(".")
    assert "\n" not in error.message
    assert len(error.message) > 20


@pytest.mark.parametrize("kind", error_classes(LimitExceeded).values(), ids=lambda kind: kind.code)
def test_limit_says_its_figures(kind: type[LimitExceeded]) -> None:
    """A limit names what was counted and what is allowed, as text and as fields."""
    error = kind(figure=70_001, limit=50_000)

    assert "70,001" in error.message
    assert "50,000" in error.message
    assert error.fields == {"figure": 70_001, "limit": 50_000}


def test_size_of_a_connect_call() -> None:
    """The message of a 413 is the one that the API promises, rounded up to a tenth of a MB."""
    error = RepositoryTooLarge.of(156_749_999, 100 * 10**6)

    assert error.message == "Repository size 156.8MB exceeds limit of 100MB"
    assert error.fields == {"estimated_size_mb": 156.8, "limit_mb": 100}
    assert "at least 0.2MB exceeds limit of 0.1MB" in RepositoryTooLarge.of(150_000, 100_000, at_least=True).message


def test_message_of_the_caller_replaces_the_sentence() -> None:
    """An error raised with a message says that."""
    assert TooManyRefs("Too many.", figure=1, limit=0).message == "Too many."
