"""What a Git host reports reaches users and rows without a secret, whatever the child that heard it let through."""

from __future__ import annotations

import base64

import pytest

from coderepos import engine
from coderepos.crypto.secret import Secret
from coderepos.exceptions import RemoteError

TOKEN = "ghp_remotetext0123456789abcdef"


@pytest.mark.parametrize("echo", [TOKEN, base64.b64encode(f"git:{TOKEN}".encode()).decode()], ids=["raw", "base64"])
def test_an_echo_is_redacted_by_the_parent_too(echo: str) -> None:
    """The child masks its own credentials; here every living secret is masked once more."""
    secret = Secret(TOKEN)
    with pytest.raises(RemoteError) as caught, engine.remote_text_redacted():
        raise RemoteError(remote_text=f"denied for {echo}")

    assert secret.reveal() not in str(caught.value) + str(caught.value.fields)
    assert echo[8:-6] not in str(caught.value) + str(caught.value.fields)
    assert caught.value.message.startswith("The Git host reported an error: denied for ")


def test_the_echo_would_be_seen() -> None:
    """Negative control: a text without a living secret stays as it is."""
    with pytest.raises(RemoteError) as caught, engine.remote_text_redacted():
        raise RemoteError(remote_text="denied for nobody_known")

    assert caught.value.fields == {"remote_text": "denied for nobody_known"}
