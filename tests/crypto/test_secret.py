"""A secret shows nothing of itself, wherever it is put."""

from __future__ import annotations

import copy
import gc
import json
import logging
import pickle
import sys
import threading
import traceback

import pytest

from coderepos.crypto.secret import Secret, living_secrets, mask

TOKEN = "ghp_1234567890abcdef"


def test_a_secret_opens_by_reveal_alone() -> None:
    """The text comes out of one method, which a reader can search for."""
    assert Secret(TOKEN).reveal() == TOKEN


@pytest.mark.parametrize(
    "show",
    [
        str,
        repr,
        ascii,
        "{}".format,
        "{!r}".format,
        "{:>40}".format,
        "%s %r".__mod__,
        lambda secret: f"{secret}{secret!r}{secret:s}{[secret]}{ {'a': secret} }",
        lambda secret: json.dumps({"token": secret}, default=str),
        lambda secret: json.dumps([repr(secret)]),
        lambda secret: str(dir(secret)),
        lambda secret: str(vars(type(secret))),
        lambda secret: str(ValueError(secret)),
        lambda secret: logging.makeLogRecord({"msg": "%s", "args": (secret,)}).getMessage(),
    ],
)
def test_nothing_that_prints_shows_it(show: object) -> None:
    """No way to make a text of it, or of something that holds it, has a part of the token."""
    secret = Secret(TOKEN)
    argument = (secret, secret) if getattr(show, "__name__", "") == "__mod__" else secret

    text = show(argument)  # type: ignore[operator]

    assert TOKEN[4:10] not in text


def test_a_traceback_with_local_variables_does_not_show_it() -> None:
    """Error reports that print every frame's variables print three stars."""
    secret = Secret(TOKEN)
    try:
        raise ValueError(secret)
    except ValueError as error:
        text = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())

    assert "secret = Secret('***')" in text
    assert secret.reveal() not in text.replace("secret.reveal()", "").replace(f"TOKEN = {TOKEN!r}", "")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_secret_is_never_pickled(protocol: int) -> None:
    """Neither alone nor inside something: task arguments and caches are pickles."""
    for value in (Secret(TOKEN), {"token": [Secret(TOKEN)]}):
        with pytest.raises(TypeError, match="never pickled"):
            pickle.dumps(value, protocol)


def test_json_refuses_a_secret() -> None:
    """JSON has no form for it, rather than a readable one."""
    with pytest.raises(TypeError):
        json.dumps({"token": Secret(TOKEN)})


def test_a_copy_is_the_secret_itself() -> None:
    """Copying what holds a secret makes no second one that nobody watches."""
    secret = Secret(TOKEN)

    assert copy.copy(secret) is secret
    assert copy.deepcopy({"token": secret})["token"] is secret


def test_secrets_are_compared_with_secrets_alone() -> None:
    """Equal texts are equal, in constant time; a plain text is not equal, and there is no hash to compare."""
    assert Secret(TOKEN) == Secret(TOKEN)
    assert Secret(TOKEN) != Secret("other")
    assert Secret("é") != Secret("e")
    assert Secret(TOKEN) != TOKEN
    with pytest.raises(TypeError):
        hash(Secret(TOKEN))


def test_an_empty_secret_is_false() -> None:
    """The token of a public repository is one that is empty."""
    assert not Secret("")
    assert Secret(TOKEN)


def test_the_redactor_knows_the_living_alone() -> None:
    """A secret is known from its making until nobody holds it; an empty one never, and equal ones once."""
    text = "living-token-of-this-test"
    first, second, empty = Secret(text), Secret(text), Secret("")

    assert list(living_secrets()).count(text) == 1
    assert "" not in set(living_secrets())
    del first
    gc.collect()
    assert text in set(living_secrets())
    del second
    gc.collect()
    assert text not in set(living_secrets())
    assert not empty


def test_secrets_come_and_go_in_threads_while_they_are_listed() -> None:
    """The registry of the living is not disturbed by other threads."""
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            held = [Secret(f"churning-token-{number}") for number in range(20)]
            held.clear()

    kept = [Secret(f"kept-token-{number}") for number in range(200)]
    threads = [threading.Thread(target=churn, daemon=True) for _ in range(2)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for _ in range(200):
            assert {secret.reveal() for secret in kept} <= set(living_secrets())
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        for thread in threads:
            thread.join()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (TOKEN, "ghp_1234...cdef"),
        ("x" * 19, "***"),
        ("glpat-abcdefghijklmnopqrst", "glpat-ab...qrst"),
        ("", "***"),
        ("short", "***"),
    ],
)
def test_the_mask_is_the_one_that_users_know(text: str, shown: str) -> None:
    """Eight characters, dots and four from 20 characters on, and three stars below."""
    assert mask(text) == shown
