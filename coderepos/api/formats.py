"""JSON in and JSON out, whatever parsers and renderers the host has for its own views."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any, Final, NoReturn

from rest_framework.exceptions import ParseError, ValidationError
from rest_framework.parsers import BaseParser, FormParser, MultiPartParser
from rest_framework.renderers import BaseRenderer, BrowsableAPIRenderer, JSONRenderer
from rest_framework.settings import api_settings

from coderepos.hidden import HiddenBytes, HiddenText

BODY_BYTES: Final = 64 * 1024
"""Largest body of a request: a token has 4,096 at most and a URL 2,048."""

TOKEN_NAME: Final = "access_token"  # noqa: S105  the name of a field
_WHITESPACE: Final = " \t\n\r"


class JsonRenderer(JSONRenderer):
    """JSON as UTF-8, compact, without ``NaN``."""

    ensure_ascii = False
    compact = True
    strict = True


class JsonParser(BaseParser):
    """JSON in UTF-8 as RFC 8259 has it, of a bounded size; the token in it hides itself as soon as it is read.

    A charset of the content type plays no part: Python knows some that inflate.
    """

    media_type = "application/json"

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        """Return the value of the body.

        :raises ValidationError: the body is too large.
        :raises ParseError: it is not JSON.
        """
        body = HiddenBytes(stream.read(BODY_BYTES + 1))
        if len(body) > BODY_BYTES:
            raise too_large()
        try:
            return _parsed(HiddenText(body, encoding="utf-8"))
        except (ValueError, StopIteration, RecursionError):
            raise ParseError from None


class _Found(tuple[Any, int]):
    """What the scanner returned, the value and where it ends, hidden: the token in it is still plain."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "_Found(...)"


def _parsed(text: str) -> Any:
    # The scanner itself, which is not written in Python: the frames of json.loads() name the text and its parts.
    start = len(text) - len(text.lstrip(_WHITESPACE))
    found = _Found(_scan(text, start))
    if text[found[1] :].strip(_WHITESPACE):
        raise ValueError("There is more after the value.")
    if isinstance(found[0], dict) and isinstance(found[0].get(TOKEN_NAME), str):
        found[0][TOKEN_NAME] = HiddenText(found[0][TOKEN_NAME])
    return found[0]


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError("NaN and infinity are not JSON.")


_scan: Final[Any] = json.JSONDecoder(parse_constant=_refuse_constant).scan_once  # type: ignore[attr-defined]


def too_large() -> ValidationError:
    """Return the error for a body that is too large."""
    return ValidationError(f"The body of a request must not be larger than {BODY_BYTES:,} bytes.")


def renderer_classes() -> list[type[BaseRenderer]]:
    """Return ours, and the host's pages for browsers where it has them."""
    return [JsonRenderer, *_browsable()]


def parser_classes() -> list[type[BaseParser]]:
    """Return ours, and those of the forms on the host's pages for browsers where it has them."""
    return [JsonParser, *((FormParser, MultiPartParser) if _browsable() else ())]


def _browsable() -> list[type[BrowsableAPIRenderer]]:
    kinds: Any = api_settings.DEFAULT_RENDERER_CLASSES
    return [kind for kind in kinds if issubclass(kind, BrowsableAPIRenderer)]
