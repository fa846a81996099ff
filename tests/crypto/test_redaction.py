"""The redactor: no form of a living secret, and nothing that looks like one, gets into a log."""

from __future__ import annotations

import base64
import html
import io
import json
import logging
import re
import time
import timeit
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from coderepos.crypto.redaction import RedactingFilter, redact, safe_remote_text
from coderepos.crypto.secret import Secret

TOKEN = 'no-prefix/knows+this&one"\\<='
"""No pattern knows it, and each kind of escaping changes it."""

FORMS: dict[str, Callable[[str], str]] = {
    "raw": str,
    "percent-encoded": lambda text: quote(text, safe=""),
    "percent-encoded path": quote,
    "percent-encoded form": quote_plus,
    "percent-encoded in lower case": lambda text: re.sub("%..", lambda match: match[0].lower(), quote(text)),
    "JSON": json.dumps,
    "repr": repr,
    "repr of bytes": lambda text: repr(text.encode()),
    "HTML": html.escape,
    "hex": lambda text: text.encode().hex(),
    "hex in upper case": lambda text: text.encode().hex().upper(),
    **{
        f"base64 after {before!r}": lambda text, before=before: base64.b64encode(f"{before}{text}".encode()).decode()  # type: ignore[misc]
        for before in ("", "x:", "x", "oauth2:", "x-access-token:")
    },
    "base64 before more": lambda text: base64.b64encode(f"{text}:x-oauth-basic".encode()).decode(),
    "url-safe base64": lambda text: base64.urlsafe_b64encode(f"x:{text}".encode()).decode(),
}


def core_of(form: str) -> str:
    """The middle of a form, which must not be found after redaction."""
    return form[len(form) // 3 : len(form) * 2 // 3]


@pytest.fixture
def secret() -> Secret:
    """A token that is alive in this process."""
    return Secret(TOKEN)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_living_secret_is_masked(secret: Secret, form: str) -> None:
    """Exact values are masked in each encoding that HTTP, JSON, HTML and Python's own printing give them."""
    shown = FORMS[form](secret.reveal())

    clean = redact(f"before {shown} after")

    assert core_of(shown) not in clean
    assert clean.startswith("before ")
    assert clean.endswith(" after")


@pytest.mark.parametrize("form", FORMS)
def test_the_forms_would_be_found(form: str) -> None:
    """Negative control: nothing of this text is masked while no such secret lives."""
    shown = FORMS[form](TOKEN)

    assert redact(f"before {shown} after") == f"before {shown} after"


def test_the_mask_of_a_secret_is_shown_in_its_place() -> None:
    """Users recognise which token was meant."""
    secret = Secret("ghp_1234567890abcdef")

    assert redact(f"token {secret.reveal()}!") == "token ghp_1234...cdef!"


def test_a_secret_inside_another_is_masked_with_it() -> None:
    """The longer one goes first, so that no rest of it remains."""
    inner, outer = Secret("inner-token"), Secret("outer-inner-token-of-both")

    clean = redact(f"{outer.reveal()} {inner.reveal()}")

    assert clean == "outer-in...both ***"


def test_a_secret_that_is_no_unicode_breaks_no_log() -> None:
    """Half a surrogate pair in a request body is a secret as any other until it is refused."""
    secret = Secret("\ud800" * 8)

    assert redact("a line") == "a line"
    assert secret.reveal() not in redact(f"a {secret.reveal()} line")
    assert secret == Secret("\ud800" * 8)


def test_very_short_secrets_do_not_eat_the_text() -> None:
    """A token of one letter would mask every word; below 6 characters only exact patterns help."""
    secret = Secret("e")

    assert redact("every letter here") == "every letter here"
    assert secret


LOOKS_LIKE = [
    ("https://user:p4ss@host/x", "https://***@host/x"),
    ("https://user:p@ss:w@host/x", "https://***@host/x"),
    ("https://t0ken@host", "https://***@host"),
    ("https://***@host", "https://***@host"),
    ("https://host/a@b", "https://host/a@b"),
    ("SSH://git@host", "SSH://***@host"),
    ("mail a@b", "mail a@b"),
    ("Authorization: Basic eDp5", "Authorization: Basic ***"),
    ("authorization: bearer abc", "authorization: bearer ***"),
    ("{'Authorization': 'Basic eDp5', 'Accept': '*'}", "{'Authorization': 'Basic ***', 'Accept': '*'}"),
    ('{"Authorization":"token abc"}', '{"Authorization":"token ***"}'),
    (r'"{\"Authorization\": \"Basic eDp5\"}"', r'"{\"Authorization\": \"Basic ***\"}"'),
    ("[(b'authorization', b'Basic eDp5')]", "[(b'authorization', b'Basic ***')]"),
    (r"send: b'GET / HTTP/1.1\r\nAuthorization: Basic eDp5\r\nHost: h'", None),
    ("Proxy-Authorization: Basic eDp5", "Proxy-Authorization: Basic ***"),
    ("PRIVATE-TOKEN: abc", "PRIVATE-TOKEN: ***"),
    ("the request needs authorization, try again", "the request needs authorization, try again"),
    ("ghp_1234567890abcdefghij", "ghp_1234...ghij"),
    ("token=ghs_1234567890.abcdef-ghij", "token=ghs_1234...ghij"),
    ("my_ghp_1234567890abcdefghij", "my_ghp_1234...ghij"),
    ("ghp_1234567890abcdefghij...", "ghp_1234...j..."),
    ("...ghp_1234567890abcdefghij", "...ghp_1234...ghij"),
    ("github_pat_11AAAAAAA0abcdefghij_klmnop", "github_p...mnop"),
    ("glpat-abcdefghijklmnopqrst", "glpat-ab...qrst"),
    ("ATBBabcdefghijklmnopqrst", "ATBBabcd...qrst"),
    ("ATCTT3xFfGF0abcdefghijkl=12", "ATCTT3xF...l=12"),
    ("ghp_1234...cdef", "ghp_1234...cdef"),
    ("ghp_1234...cdef.and.what.follows.it", "ghp_1234...cdef.and.what.follows.it"),
    ("highp_1234567890abcdefghij", "highp_1234567890abcdefghij"),
]


@pytest.mark.parametrize(("text", "clean"), LOOKS_LIKE)
def test_what_looks_like_a_secret_is_masked(text: str, clean: str | None) -> None:
    """URL userinfo, authorization headers and the prefixes of known hosts are masked without a living secret."""
    assert "eDp5" not in redact(text)
    assert clean is None or redact(text) == clean


@pytest.mark.parametrize(("text", "clean"), LOOKS_LIKE)
def test_redacting_twice_changes_nothing(text: str, clean: str | None) -> None:
    """Two handlers of one record give one text."""
    assert redact(redact(text)) == redact(text)


def test_remote_text_is_masked_before_it_is_cut(secret: Secret) -> None:
    """A token that the cut would halve is masked whole; control bytes, and what reorders a line, become spaces."""
    text = "x" * 190 + secret.reveal() + "y" * 500

    clean = safe_remote_text(f"\x1b[31m\r\n\x00\u202e{text}")

    assert len(clean) == 200
    assert TOKEN[:6] not in clean
    assert clean.startswith("[31m xxx")
    assert clean.isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "https://" * 20_000,
        "authorization" * 10_000,
        "authorization:" + " " * 100_000,
        "a" * 100_000 + "@",
        "ghp_" * 30_000,
    ],
)
def test_hostile_text_costs_no_more_than_its_length(text: str) -> None:
    """A hundred kilobytes made for the patterns take less than a second."""
    assert min(timeit.repeat(lambda: redact(text), number=1, repeat=2)) < 1


# Log records ------------------------------------------------------------------------------------------------------


class Hostile:
    """An object that cannot be printed."""

    def __str__(self) -> str:
        raise RuntimeError(TOKEN)

    __repr__ = __str__


class Chatty:
    """An object whose ``repr`` has what its ``str`` has not."""

    def __str__(self) -> str:
        return "harmless"

    def __repr__(self) -> str:
        return TOKEN


FORMAT = "%(levelname)s %(message)s"


@pytest.fixture(params=[False, True], ids=["record in place", "record replaced"])
def log(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, secret: Secret) -> Log:
    """A logger with a redacting handler, on this Python and as on the one of the other kind."""
    monkeypatch.setattr(RedactingFilter, "replaces_records", request.param)
    return Log()


class Log:
    """A logger, and what its handler prints."""

    def __init__(self) -> None:
        self.logger = logging.Logger("log of this test", logging.DEBUG)  # noqa: LOG001  not to be found by anybody else
        self.printed = io.StringIO()
        self.records: list[logging.LogRecord] = []
        handler = logging.StreamHandler(self.printed)
        handler.setFormatter(logging.Formatter(FORMAT))
        self.redacting = RedactingFilter()
        handler.addFilter(self._filter)
        self.logger.addHandler(handler)

    def _filter(self, record: logging.LogRecord) -> bool:
        clean = self.redacting.filter(record)
        if clean is not True:  # what Python 3.12 does, on every Python
            vars(record).clear()
            vars(record).update(vars(clean))
        self.records.append(record)
        return True

    def text(self) -> str:
        """Everything that came out: printed lines, and what a formatter of its own could take from the records."""
        return self.printed.getvalue() + "".join(f"{vars(record)!r}\n" for record in self.records)


def boom(text: str) -> None:
    """Raise an error with ``text`` in it, its cause and its context."""
    try:
        try:
            raise KeyError(text)
        except KeyError as error:
            raise ValueError(f"cause {text}") from error
    except ValueError:
        member = RuntimeError(f"on top {text}")
        member.add_note(f"note {text}")
        raise ExceptionGroup(f"group {text}", [member]) from None


PLACES: dict[str, Callable[[logging.Logger, str], None]] = {
    "message": lambda logger, text: logger.info(f"a {text} b"),  # noqa: G004
    "argument": lambda logger, text: logger.info("a %s b %r", text, text),
    "argument by name": lambda logger, text: logger.info("a %(token)s b", {"token": text}),
    "nested argument": lambda logger, text: logger.info("a %s", {"deep": [({"er": text},)]}),
    "object as message": lambda logger, text: logger.error(ValueError(text)),
    "bytes": lambda logger, text: logger.info("a %s", text.encode()),
    "extra": lambda logger, text: logger.info("a", extra={"field": text}),
    "nested extra": lambda logger, text: logger.info("a", extra={"field": {"deep": [text, (text, {text: 1})]}}),
    "deeply nested extra": lambda logger, text: logger.info("a", extra={"field": [[[[[[[[[[text]]]]]]]]]]}),
    "object in extra": lambda logger, text: logger.info("a", extra={"field": ValueError(text)}),
    "bytes in extra": lambda logger, text: logger.info("a", extra={"field": text.encode()}),
    "object whose repr tells": lambda logger, text: logger.info("a %s", Chatty(), extra={"field": Chatty()}),
    "too few arguments": lambda logger, text: logger.info("a %s %s b", text),
    "too many arguments": lambda logger, text: logger.info("a", text, {"b": text}),
    "format that fails": lambda logger, text: logger.info("a %d b", text),
    "hostile argument": lambda logger, text: logger.info("a %s b %s", Hostile(), text, extra={"field": Hostile()}),
    "hostile message": lambda logger, text: logger.info(Hostile(), text),
    "stack": lambda logger, text: logger.info("a", stack_info=True, extra={"field": text}),
    "cached traceback": lambda logger, text: logger.handle(
        logging.makeLogRecord(
            {"levelno": 40, "msg": "a", "exc_text": f"Traceback {text}", "stack_info": text, "message": text}
        )
    ),
    "traceback": lambda logger, text: _log_exception(logger, text),
    "traceback that cannot be printed": lambda logger, text: logger.error("a", exc_info=HostileError(text)),
    "exception without one": lambda logger, text: logger.error("a %s", text, exc_info=(None, None, None)),
}


class HostileError(Exception):
    """An error that cannot be printed."""

    def __str__(self) -> str:
        raise RuntimeError(self.args[0])


def _log_exception(logger: logging.Logger, text: str) -> None:
    try:
        boom(text)
    except ExceptionGroup:
        logger.exception("it failed")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("form", ["raw", "base64 after 'x:'", "percent-encoded"])
def test_no_place_of_a_record_shows_a_secret(
    log: Log, place: str, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Message, arguments, traceback with causes and groups, stack, extra values: all redacted, no record lost."""
    shown = FORMS[form](TOKEN)

    PLACES[place](log.logger, shown)

    assert len(log.records) == 1
    assert core_of(shown) not in log.text()
    assert core_of(TOKEN) not in log.text()
    assert log.printed.getvalue().count("\n") >= 1
    assert capsys.readouterr().err == ""  # where logging reports its own failures, arguments included


@pytest.mark.parametrize("place", PLACES)
def test_the_places_would_show_it(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: without the filter, what these calls log has the token in it."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    log = Log()
    log.redacting.filter = lambda record: True  # type: ignore[method-assign]

    PLACES[place](log.logger, TOKEN)

    shown = []
    for record in log.records:
        record.args = record.args or ()
        for value in (
            *vars(record).values(),
            *(record.args.values() if isinstance(record.args, dict) else record.args),
        ):
            try:
                shown.append(f"{value!r}")
            except RuntimeError as error:
                shown.append(repr(error))
        if record.exc_info and record.exc_info[1]:
            shown.append(repr(record.exc_info[1].args))
    assert core_of(TOKEN) in "".join(shown)


def test_a_traceback_stays_readable(log: Log) -> None:
    """Only the secret goes: names of errors, notes, files and lines remain."""
    _log_exception(log.logger, TOKEN)

    text = log.printed.getvalue()
    assert "ERROR it failed" in text
    assert "Traceback" in text
    assert 'test_redaction.py", line' in text
    assert "ExceptionGroup: group no-prefi..." in text
    assert "RuntimeError: on top" in text


def test_what_holds_no_secret_stays_as_it_is(log: Log) -> None:
    """Numbers, dates and foreign objects keep their types for formatters of JSON."""
    thing = object()

    log.logger.info("100%% of %s", "it", extra={"number": 1, "thing": thing, "list": [1, None, (True, b"x")]})

    record = log.records[0]
    assert record.getMessage() == "100% of it"
    assert vars(record)["number"] == 1
    assert vars(record)["thing"] is thing
    assert vars(record)["list"] == [1, None, (True, b"x")]


def test_a_circular_value_ends(log: Log) -> None:
    """A list that holds itself is not followed for ever."""
    circle: list[Any] = [TOKEN]
    circle.append(circle)

    log.logger.info("a", extra={"field": circle})

    assert core_of(TOKEN) not in log.text()


def test_the_handlers_of_this_python_redact(secret: Secret) -> None:
    """A real handler with the filter on it, as projects configure it, prints no secret; two of them neither."""
    logger, printed = logging.Logger("real"), [io.StringIO(), io.StringIO()]  # noqa: LOG001  not to be found by anybody else
    for stream in printed:
        handler = logging.StreamHandler(stream)
        handler.addFilter(RedactingFilter())
        logger.addHandler(handler)

    logger.warning("a %s b", secret.reveal(), extra={"field": secret.reveal()})
    _log_exception(logger, secret.reveal())

    assert printed[0].getvalue() == printed[1].getvalue()
    assert printed[0].getvalue().startswith("a no-prefi...")
    assert core_of(TOKEN) not in printed[0].getvalue()


def test_a_replaced_record_leaves_the_original_alone(monkeypatch: pytest.MonkeyPatch, secret: Secret) -> None:
    """Where Python can hand on a copy, reporters of errors still get the real exception."""
    monkeypatch.setattr(RedactingFilter, "replaces_records", True)
    error = ValueError(secret.reveal())
    record = logging.makeLogRecord({"msg": "a %s", "args": ("b",), "exc_info": (ValueError, error, None)})

    clean = RedactingFilter().filter(record)

    assert clean is not record
    assert record.exc_info == (ValueError, error, None)
    assert record.args == ("b",)
    assert clean.exc_info is None
    assert core_of(TOKEN) not in clean.exc_text


def test_a_record_costs_little_while_no_secret_lives() -> None:
    """A line of a log is redacted in well under a millisecond, also while some secrets live."""
    record = logging.makeLogRecord(
        {"msg": "cloned %s in %.1f s", "args": ("0190f3c2-7a1b-7c3d-9e4f-5a6b7c8d9e0a", 1.5)}
    )

    # Processor time: how busy the machine is says nothing about the filter.
    runs = timeit.repeat(lambda: RedactingFilter().filter(copy_of(record)), time.process_time, number=200, repeat=3)
    seconds = min(runs) / 200

    assert seconds < 0.001


def copy_of(record: logging.LogRecord) -> logging.LogRecord:
    """A record with the same content."""
    return logging.makeLogRecord(vars(record))
