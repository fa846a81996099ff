"""What every error of the app is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final


class CodeReposError(Exception):
    """Superclass of all errors of the app; never raised itself.

    The first sentence of a subclass's docstring is its public message. Anything given as ``message`` is shown to
    users and stored: it must hold no secret and no unredacted remote text.

    :param message: sentence that replaces the default one.
    :param fields: further JSON values for the body of an error answer, such as ``limit_mb``. A ``reason`` that is one
        of :attr:`sentences` replaces the default message too.
    """

    code: ClassVar[str]
    """Stable snake-case name of the error; part of the API, never renamed."""

    retryable: ClassVar[bool] = False
    """Whether the same request is worth another try without any change by the user."""

    most_retries: ClassVar[int | None] = None
    """How often a job is tried again at most after such failures; ``None`` for ``CLONE_MAX_RETRIES``."""

    sentences: ClassVar[Mapping[str, str]] = {}
    """Messages by ``reason``: a child process sends the reason alone, since no text of its own is trusted."""

    def __init__(self, message: str | None = None, **fields: object) -> None:
        self.message: Final = message or self.sentences.get(str(fields.get("reason"))) or default_message(type(self))
        self.fields: Final = fields
        super().__init__(self.message)


def default_message(kind: type[CodeReposError]) -> str:
    """Return the first paragraph of the docstring of ``kind`` on one line."""
    return " ".join((kind.__doc__ or kind.__name__).split("\n\n", 1)[0].split())


def error_classes(kind: type[CodeReposError] = CodeReposError) -> dict[str, type[CodeReposError]]:
    """Return every raisable class below ``kind`` by its code."""
    found = {kind.code: kind} if "code" in vars(kind) else {}
    for child in kind.__subclasses__():
        found |= error_classes(child)
    return found
