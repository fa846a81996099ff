"""What the settings mean to the Git engine, which reads none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Protocol

from coderepos.conf import ConfigurationError, conf
from coderepos.crypto.redaction import safe_remote_text
from coderepos.crypto.secret import Secret
from coderepos.exceptions import RefNotFound, RemoteError
from coderepos.git.clone import CloneRequest
from coderepos.git.credentials import basic_auth
from coderepos.git.limits import Limits
from coderepos.git.network_policy import NetworkPolicy, Proxy
from coderepos.git.transport.proxy import parse_proxy_url
from coderepos.git.url import GitUrl, origin_of
from coderepos.hidden import HiddenText
from coderepos.sandbox.root import NAME, SandboxRoot
from coderepos.sandbox.sandbox import Sandbox


class Remote(Protocol):
    """What a repository says about its remote, saved or not."""

    @property
    def git_url(self) -> str:
        """URL of the repository."""

    @property
    def platform(self) -> str:
        """Which platform serves it, and with that how a token is sent."""

    @property
    def username(self) -> str:
        """User name for the token, or empty."""

    @property
    def ref(self) -> str:
        """Branch, tag or id that is wanted; empty for the default branch."""

    @property
    def depth(self) -> int | None:
        """How many commits deep, ``None`` for all of the history."""


class Placed(Protocol):
    """What names the sandbox of a repository."""

    @property
    def pk(self) -> Any:
        """Primary key of the repository."""

    @property
    def project_id(self) -> Any:
        """Primary key of its project."""


SHORTEST_STALL_SECONDS: Final = 60
STALL_SHARE: Final = 0.2


def network_policy() -> NetworkPolicy:
    """Return which hosts the settings allow, and by which way they are asked.

    :raises ConfigurationError: ``HTTPS_PROXY_URL`` is not a proxy's.
    """
    return NetworkPolicy(
        allowed_hosts=tuple(conf.ALLOWED_GIT_HOSTS),
        private_hosts=tuple(conf.PRIVATE_GIT_HOSTS),
        insecure_http_hosts=tuple(conf.INSECURE_HTTP_HOSTS),
        ca_bundle=conf.GIT_CA_BUNDLE,
        proxy=_proxy_and_password(HiddenText(conf.HTTPS_PROXY_URL))[0] if conf.HTTPS_PROXY_URL else None,
        proxy_resolved_hosts=tuple(conf.PROXY_RESOLVED_HOSTS),
        direct_hosts=tuple(conf.NO_PROXY_HOSTS),
    )


@lru_cache(maxsize=4)
def _proxy_and_password(text: HiddenText) -> tuple[Proxy, Secret]:
    """Return the proxy and its password, which logs are masked by for as long as it is kept here."""
    try:
        proxy = parse_proxy_url(text)
    except ValueError as error:
        raise ConfigurationError(f"CODEREPOS['HTTPS_PROXY_URL']: {error}") from None
    return proxy, Secret(proxy.password)


def has_origin(text: str, url: GitUrl) -> bool:
    """Return whether ``text`` names the scheme, host and port of ``url``; a text that is not a usable URL does not."""
    try:
        return origin_of(text) == url.origin
    except ValueError:
        return False


def limits() -> Limits:
    """Return the bounds of one probe or clone; a stalled pack is given up after a fifth of the time, or a minute."""
    size_bytes = conf.max_repo_size_bytes
    return Limits(
        wire_bytes=size_bytes,
        disk_bytes=size_bytes,
        clone_seconds=conf.GIT_CLONE_TIMEOUT,
        receive_seconds=max(SHORTEST_STALL_SECONDS, STALL_SHARE * conf.GIT_CLONE_TIMEOUT),
        min_bytes_per_second=round(conf.MIN_RATE_KB * 1_000),
    )


def clone_request(repository: Remote, token: Secret) -> CloneRequest:
    """Return what to ask the remote of a repository for, saved or not."""
    return CloneRequest(
        url=repository.git_url,
        credentials=basic_auth(repository.platform, token, repository.username) if token else None,
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


def project_key(project_id: object) -> str:
    """Return the name of the directory that holds the sandboxes of a project.

    :raises ConfigurationError: the key has characters that are not allowed in a directory name.
    """
    key = str(project_id)
    if not NAME.match(key):
        raise ConfigurationError("The primary key of a project must match [A-Za-z0-9_-]{1,64}.")
    return key


def sandbox_root() -> SandboxRoot:
    """Return the directory that holds all sandboxes of this machine."""
    return SandboxRoot(Path(conf.SANDBOX_BASE_PATH), group=conf.SANDBOX_GROUP)


def sandbox_of(repository: Placed) -> Sandbox:
    """Return the directory of one repository."""
    return Sandbox(sandbox_root(), project_key(repository.project_id), str(repository.pk))
