from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderepos.exceptions import InvalidGitUrl, UrlNotAllowed
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.url import MAX_URL_BYTES, may_be_private, parse_git_url

ANY_HOST = NetworkPolicy()


@pytest.mark.parametrize(
    ("text", "base", "key"),
    [
        ("https://github.com/a/b", "https://github.com/a/b", "https://github.com/a/b"),
        ("https://github.com/a/b.git", "https://github.com/a/b.git", "https://github.com/a/b"),
        ("https://github.com/a/b.git/", "https://github.com/a/b.git", "https://github.com/a/b"),
        ("HTTPS://GitHub.COM:443/A/b/", "https://github.com/A/b", "https://github.com/A/b"),
        ("https://github.com/a/b.git.git", "https://github.com/a/b.git.git", "https://github.com/a/b.git"),
        ("https://host/a/b/.git", "https://host/a/b/.git", "https://host/a/b"),
        ("https://xn--bcher-kva.example/r", "https://xn--bcher-kva.example/r", "https://xn--bcher-kva.example/r"),
        ("https://host/c%2B%2B/~me", "https://host/c%2B%2B/~me", "https://host/c++/~me"),
        ("https://host/%c3%a9", "https://host/%c3%a9", "https://host/%C3%A9"),
        ("https://192.0.2.1/r", "https://192.0.2.1/r", "https://192.0.2.1/r"),
        ("https://[2001:DB8:0::1]/r", "https://[2001:db8::1]/r", "https://[2001:db8::1]/r"),
        ("https://a_b-c.internal/r", "https://a_b-c.internal/r", "https://a_b-c.internal/r"),
    ],
)
def test_normal_forms(text: str, base: str, key: str) -> None:
    """The base is what is fetched from, the key is equal for all spellings, the text is kept."""
    url = parse_git_url(text, ANY_HOST)

    assert (url.base, url.key, url.text) == (base, key, text)


def test_parts() -> None:
    """A port of its own shows in the authority, and brackets are not part of the host."""
    url = parse_git_url("https://[::1]:8443/r", NetworkPolicy(allowed_hosts=("[::1]:8443",)))

    assert (url.scheme, url.host, url.port, url.path) == ("https", "::1", 8443, "/r")
    assert url.authority == "[::1]:8443"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://",
        "https:///r",
        "https://host",
        "https://host/",
        "https://host//",
        "host/owner/repo",
        "/srv/repo.git",
        "C:\\repo",
        "https:/host/r",
        "https://host:/r",
        "https://host:0/r",
        "https://host:99999/r",
        "https://host:443x/r",
        "https://ho st/r",
        "https://-host/r",
        "https://host-/r",
        "https://host./r",
        "https://a..b/r",
        f"https://{'a' * 64}.example/r",
        f"https://{'a.' * 127}a/r",
        "http://[::1",
        "https://[::1/r",
        "https://::1/r",
        "https://[]/r",
        "https://[127.0.0.1]/r",
        "https://[fe80::1%25lo]/r",
        "https://[fe80::1%lo]/r",
        # Numbers that inet_aton, but no other, takes for an address.
        "https://127.1/r",
        "https://0x7f000001/r",
        "https://2130706433/r",
        "https://0177.0.0.1/r",
        "https://0/r",
        "https://0x/r",
        "https://1.2.3.256/r",
        "https://host.123/r",
        "https://１２７.0.0.1/r",
        "https://ⓛocalhost/r",
        "https://bücher.example/r",
        # Credentials, even empty ones.
        "https://user:pw@host/r",
        "https://user@host/r",
        "https://@host/r",
        "https://:@host/r",
        # Query, fragment, control and odd characters.
        "https://host/r?x",
        "https://host?x/r",
        "https://host/r#x",
        "https://host/r?",
        "https://host/r\\x",
        "https://host\\@evil/r",
        "https://host/r\r\nX: y",
        "https://host/r\n",
        "https://host/\tr",
        "https://host/r\0",
        "https://host/a b",
        "https://host/é",
        "https://host/\ud800",
        'https://host/"r"',
        "https://host/<r>",
        "https://host/%",
        "https://host/%zz",
        # Two paths in one.
        "https://host/a/../b",
        "https://host/./b",
        "https://host/a//b",
        "https://host//b",
        "https://host/b//",
        "https://host/..;/b",
        "https://host/a%2fb",
        "https://host/a%5Cb",
        "https://host/%2e%2e/b",
        "https://host/%2e./b",
        "https://host/a%252fb",
        "https://host/a%00b",
        "https://host/a%0ab",
        "https://host/a%7fb",
        "https://host/a%3fb",
        "https://host/a%23b",
        "https://host/.git",
        "https://host/" + "a" * MAX_URL_BYTES,
    ],
)
def test_refuses_what_is_no_url_of_one_spelling(text: str) -> None:
    """Texts that crash a parser, or mean different things to different parsers, are no Git URLs."""
    with pytest.raises(InvalidGitUrl):
        parse_git_url(text, ANY_HOST)


@pytest.mark.parametrize(
    "text",
    [
        "http://host/r",
        "http://127.0.0.1:8000/r",
        "ssh://git@host/r",
        "git://host/r",
        "git+ssh://host/r",
        "file:///etc/passwd",
        "ftp://host/r",
        "git@host:owner/repo.git",
        "https://host:22/r",
        "https://host:80/r",
        "https://127.0.0.1:8443/r",
    ],
)
def test_refuses_other_schemes_and_ports(text: str) -> None:
    """Without settings only https on its own port is allowed."""
    with pytest.raises(UrlNotAllowed):
        parse_git_url(text, ANY_HOST)


def test_length_is_counted_in_bytes() -> None:
    """The longest URL has exactly the limit's bytes."""
    longest = "https://host/" + "a" * (MAX_URL_BYTES - len("https://host/"))

    assert parse_git_url(longest, ANY_HOST).text == longest


@pytest.mark.parametrize(
    ("entry", "text", "allowed"),
    [
        ("github.com", "https://github.com/r", True),
        ("GitHub.com", "https://GITHUB.com/r", True),
        ("github.com", "https://evilgithub.com/r", False),
        ("github.com", "https://github.com.evil/r", False),
        ("github.com", "https://api.github.com/r", False),
        ("github.com", "https://github.com:8443/r", False),
        ("*.example.org", "https://git.example.org/r", True),
        ("*.example.org", "https://a.b.example.org/r", True),
        ("*.example.org", "https://example.org/r", False),
        ("*.example.org", "https://badexample.org/r", False),
        ("*.example.org:8443", "https://git.example.org:8443/r", True),
        ("*.example.org:8443", "https://git.example.org/r", False),
        ("host:8443", "https://host:8443/r", True),
        ("host:8443", "https://host/r", False),
        ("[2001:db8::1]", "https://[2001:DB8::0:1]/r", True),
        ("2001:db8::1", "https://[2001:db8::1]/r", True),
        ("[2001:db8::1]:8443", "https://[2001:db8::1]:8443/r", True),
    ],
)
def test_allow_list(entry: str, text: str, allowed: bool) -> None:
    """With an allow-list only its hosts pass, an entry with a port only on that port."""
    policy = NetworkPolicy(allowed_hosts=("other.example", entry))

    if allowed:
        parse_git_url(text, policy)
    else:
        with pytest.raises(UrlNotAllowed):
            parse_git_url(text, policy)


def test_private_hosts_open_their_port_but_not_the_allow_list() -> None:
    """A private host with a port may be asked on it; an allow-list still has to name the host."""
    private = NetworkPolicy(private_hosts=("gitlab.internal:8443",))

    assert may_be_private(parse_git_url("https://gitlab.internal:8443/r", private), private)
    assert not may_be_private(parse_git_url("https://gitlab.internal/r", private), private)
    with pytest.raises(UrlNotAllowed):
        parse_git_url("https://gitlab.internal:8443/r", replace(private, allowed_hosts=("github.com",)))


def test_private_hosts_take_no_wildcard() -> None:
    """A private host is named in full: a wildcard there matches nothing."""
    policy = NetworkPolicy(private_hosts=("*.example.org",))

    assert not may_be_private(parse_git_url("https://git.example.org/r", policy), policy)


def test_plain_http_needs_host_and_port() -> None:
    """Plain http passes for exactly the listed host and port, and only http does."""
    policy = NetworkPolicy(insecure_http_hosts=("127.0.0.1:8000", "host"))

    assert parse_git_url("http://127.0.0.1:8000/r", policy).base == "http://127.0.0.1:8000/r"
    for text in ("http://127.0.0.1:8001/r", "http://127.0.0.1/r", "http://host/r", "https://127.0.0.1:8000/r"):
        with pytest.raises(UrlNotAllowed):
            parse_git_url(text, policy)


def test_errors_do_not_repeat_the_text() -> None:
    """A token that was pasted into the URL is not in the error."""
    for text in ("https://ghp_secret@github.com/a/b", "ghp_secret", "ssh://ghp_secret@host/x", "https://h/ghp_secret?"):
        with pytest.raises((InvalidGitUrl, UrlNotAllowed)) as caught:
            parse_git_url(text, ANY_HOST)
        assert "ghp_secret" not in f"{caught.value} {caught.value.fields}"


@given(st.text() | st.from_regex(r"https://[ -~]{1,40}", fullmatch=True))
def test_any_text_is_refused_or_has_a_stable_normal_form(text: str) -> None:
    """No text makes the gate crash, and what passes is unchanged by passing again."""
    try:
        url = parse_git_url(text, ANY_HOST)
    except (InvalidGitUrl, UrlNotAllowed):
        return

    again = parse_git_url(url.base, ANY_HOST)
    assert (again.base, again.key) == (url.base, url.key)
