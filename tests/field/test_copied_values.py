"""URLs and user names as people copy them."""

from __future__ import annotations

import pytest

from coderepos.models import CodeRepository
from tests.support.servers.hostile import HostileServer, v2_server
from tests.support.site import TOKEN, Site


@pytest.mark.parametrize(
    ("before", "after"), [(" ", ""), ("", "\n"), ("\t", "\r\n"), ("\u00a0", " "), ("", "\u2028"), (" \n ", " \n ")]
)
def test_white_space_around_a_url(site: Site, before: str, after: str) -> None:
    """Blanks and line feeds around a URL are left out, and the repository is known by the URL without them.

    https://github.com/desktop/desktop/issues/4213
    """
    with HostileServer(v2_server()) as host:
        site.trust(host)
        answer = site.connect(f"{before}{host.url}{after}")
        again = site.connect(host.url)

    assert (answer.status_code, answer.json()["git_url"]) == (201, host.url)
    assert again.json()["detail"]["error"] == "already_connected"
    repository = CodeRepository.objects.get()
    repository.git_url = f"\n{host.url} "
    repository.save()
    assert CodeRepository.objects.get().git_url == host.url


@pytest.mark.parametrize("inner", [" ", "\n", "\t", "\u00a0"])
def test_white_space_inside_of_a_url(site: Site, inner: str) -> None:
    """White space inside of a URL is named."""
    detail = site.connect(f"https://git.example/a{inner}b.git").json()["detail"]

    assert (detail["error"], "white space" in detail["message"]) == ("invalid_git_url", True)


@pytest.mark.parametrize("size", [256, 1_100, 2_048])
def test_user_name_with_a_session_token(site: Site, size: int) -> None:
    """User names that hold a session token reach the host whole.

    https://github.com/aws/git-remote-codecommit
    """
    with HostileServer(v2_server()) as host:
        site.trust(host)
        site.connected(host.url, access_token=TOKEN, username="u" * size)
        sent = host.requests[0].headers["authorization"]
        too_long = site.connect(host.url, access_token=TOKEN, username="u" * 2_049, ref="main")

    assert len(sent) > size * 4 / 3
    assert too_long.json()["detail"]["error"] == "invalid_request"
