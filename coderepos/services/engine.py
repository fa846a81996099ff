"""What the settings mean to the Git engine, which reads none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from coderepos.conf import conf
from coderepos.crypto.redaction import safe_remote_text
from coderepos.crypto.secret import Secret
from coderepos.exceptions import RefNotFound, RemoteError
from coderepos.git.clone import CloneRequest
from coderepos.git.limits import Limits
from coderepos.git.platforms import basic_auth
from coderepos.git.results import Credentials, Revealable
from coderepos.hidden import HiddenText
from coderepos.models import CodeRepository
from coderepos.models.address import network_policy
from coderepos.models.project import project_key
from coderepos.sandbox.root import SandboxRoot
from coderepos.sandbox.sandbox import Sandbox

SHORTEST_STALL_SECONDS: Final = 60
STALL_SHARE: Final = 0.2


def limits() -> Limits:
    """Return the bounds of one probe or clone; a stalled pack is given up after a fifth of the time, or a minute."""
    size_bytes = conf.max_repo_size_bytes
    return Limits(
        wire_bytes=size_bytes,
        disk_bytes=size_bytes,
        clone_seconds=conf.GIT_CLONE_TIMEOUT,
        receive_seconds=max(SHORTEST_STALL_SECONDS, STALL_SHARE * conf.GIT_CLONE_TIMEOUT),
    )


def clone_request(repository: CodeRepository, token: Secret) -> CloneRequest:
    """Return what to ask the remote of a repository for, saved or not."""
    return CloneRequest(
        url=repository.git_url,
        credentials=_credentials(repository, token),
        ref=repository.ref,
        depth=repository.depth,
        policy=network_policy(),
        limits=limits(),
        min_level=conf.SANDBOX_MIN_LEVEL,
        group_readable=bool(conf.SANDBOX_GROUP),
    )


@contextmanager
def remote_text_redacted() -> Iterator[None]:
    """Redact text of a remote before anybody sees it; the child that heard it has masked its own credentials.

    :raises RemoteError: with no secret of this process in its text.
    :raises RefNotFound: with no secret of this process among its names.
    """
    try:
        yield
    except RemoteError as error:
        raise RemoteError(remote_text=safe_remote_text(str(error.fields.get("remote_text", "")))) from None
    except RefNotFound as error:
        fields: dict[str, Any] = {**error.fields}
        names = [name for name in fields.pop("names", ()) if safe_remote_text(name) == name]
        raise RefNotFound(names=names, **fields) from None


def sandbox_root() -> SandboxRoot:
    """Return the folder that holds all sandboxes of this machine."""
    return SandboxRoot(Path(conf.SANDBOX_BASE_PATH), group=conf.SANDBOX_GROUP)


def sandbox_of(repository: CodeRepository) -> Sandbox:
    """Return the folder of one repository."""
    return sandbox_root().sandbox(project_key(repository.project_id), str(repository.pk))


@dataclass(frozen=True, slots=True)
class _PublicText:
    """A user name that is no secret, so that no log masks it."""

    text: str

    def reveal(self) -> str:
        return self.text


def _credentials(repository: CodeRepository, token: Secret) -> Credentials | None:
    if not token:
        return None
    username, password = basic_auth(repository.platform, HiddenText(token.reveal()), repository.username)
    return Credentials(username=_half(username, token), password=_half(password, token))


def _half(text: str, token: Secret) -> Revealable:
    return token if text == token.reveal() else _PublicText(text)
