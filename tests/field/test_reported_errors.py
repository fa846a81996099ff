"""Errors that a Git host reports in the protocol: shown for what they are, to who may see them, without a secret."""

from __future__ import annotations

import base64
import re

import pytest

from coderepos.models import AuditEntry, CodeRepository
from tests.support.hostile_cases import valid
from tests.support.servers.hostile import (
    ADVERTISEMENT,
    FLUSH,
    RESULT,
    SERVICE_LINE,
    Answer,
    HostileServer,
    advertisement,
    pkt,
    sideband,
    v2_server,
)
from tests.support.servers.http_server import Exchange
from tests.support.site import TOKEN, Site

ID = "1" * 40


def reports(stage: str, text: bytes) -> Answer:
    """Return a server that reports an error when it is asked for its refs, their list or a pack."""

    def answer(exchange: Exchange) -> None:
        asked = "first" if exchange.is_advertisement else "refs" if exchange.is_ls_refs else "pack"
        if asked != stage.partition(",")[0]:
            valid()(exchange)
        elif stage == "first":
            exchange.answer(pkt(SERVICE_LINE) + FLUSH + pkt(b"ERR " + text), ADVERTISEMENT)
        elif stage == "pack, band 3":
            exchange.answer(pkt(b"packfile\n") + pkt(b"\2Counting\r") + pkt(b"\3" + text) + FLUSH, RESULT)
        else:
            exchange.answer(pkt(b"ERR " + text), RESULT)

    return answer


@pytest.mark.parametrize("stage", ["first", "refs", "pack", "pack, band 3"])
def test_error_of_the_host(site: Site, stage: str) -> None:
    """An ERR line is the host's own word, not the sign of another protocol.

    https://github.com/go-git/go-git/issues/582
    """
    with HostileServer(reports(stage, b"access denied or repository not exported: /owner/x\n")) as server:
        site.trust(server)
        answer = site.connect(server.url, access_token=TOKEN)

    detail = answer.json()["detail"]
    assert answer.status_code == 502
    assert detail["error"] == "remote_error"
    assert detail["remote_text"] == "access denied or repository not exported: /owner/x"
    assert detail["message"] == f"The Git host reported an error: {detail['remote_text']}"


def test_error_before_any_ref_in_version_0(site: Site) -> None:
    """In the old protocol too, and in the midst of the refs."""
    start = advertisement([("HEAD", ID)])[: -len(FLUSH)]
    with HostileServer(lambda exchange: exchange.answer(start + pkt(b"ERR busy"), ADVERTISEMENT)) as server:
        site.trust(server)

        assert site.connect(server.url).json()["detail"]["message"] == "The Git host reported an error: busy"


@pytest.mark.parametrize(
    "echo",
    [
        TOKEN.encode(),
        b"Authorization: Basic " + base64.b64encode(f"git:{TOKEN}".encode()),
        TOKEN.encode().hex().encode(),
        TOKEN[::-1].encode(),
        b" ".join(re.findall(b"..", TOKEN.encode())),
        b"\0".join(bytes([byte]) for byte in TOKEN.encode()),
    ],
    ids=["raw", "header", "hex", "backwards", "spaced", "cut by NUL"],
)
def test_host_that_repeats_the_token(site: Site, echo: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """What the host says is shown without the token, whatever form it gives it: in answers, rows and logs."""
    caplog.set_level("DEBUG")
    is_cloned = False

    def answer(exchange: Exchange) -> None:
        (reports("pack", b"no: " + echo + b" \x1b[31m") if is_cloned else valid())(exchange)

    with HostileServer(answer) as server:
        site.trust(server)
        repo_id = site.connected(server.url, access_token=TOKEN)
        is_cloned = True
        outcome = site.work(repo_id)
        answered = site.connect(server.url, access_token=TOKEN, ref="main")

    job, row = site.job(repo_id), CodeRepository.objects.get(pk=repo_id)
    assert (outcome, job.error_code) == ("retry_scheduled", "remote_error")
    shown = [job.error_message, site.status(repo_id), answered.json(), row.error_message, caplog.text]
    shown += list(AuditEntry.objects.values_list("details", flat=True))
    assert "\x1b" not in str(shown)
    squeezed = re.sub(r"[^a-z0-9]", "", str(shown).lower())
    forms = (TOKEN, TOKEN[::-1], base64.b64encode(f"git:{TOKEN}".encode()).decode()[8:40], TOKEN.encode().hex())
    for form in forms:
        plain = re.sub(r"[^a-z0-9]", "", form.lower())
        assert not [at for at in range(len(plain) - 15) if plain[at : at + 16] in squeezed]


def test_branch_that_repeats_the_token(site: Site) -> None:
    """Names of branches that are told to users are text of the host too: one with the token in it is not among them."""
    refs = [("refs/heads/good", ID), (f"refs/heads/{TOKEN}", ID), (f"refs/heads/{TOKEN.encode().hex()}", ID)]
    with HostileServer(v2_server(refs)) as server:
        site.trust(server)
        detail = site.connect(server.url, access_token=TOKEN).json()["detail"]

    assert detail["names"] == ["good"]
    assert detail["message"] == "The repository's default branch does not exist; name a branch, such as good."


def test_long_text_of_the_host(site: Site) -> None:
    """Only the beginning of a long text is kept, on one line."""
    with HostileServer(reports("refs", b"line\n" * 1_000)) as server:
        site.trust(server)
        detail = site.connect(server.url).json()["detail"]

    assert len(detail["remote_text"]) <= 200
    assert detail["remote_text"].startswith("line line line")


def test_progress_is_no_error(site: Site) -> None:
    """The control: what comes on the band for progress is nobody's business."""
    with HostileServer(v2_server(pack=lambda _: [pkt(b"\2error: no\n"), *sideband(b"PACK"), FLUSH])) as server:
        site.trust(server)
        answer = site.connect(server.url)

    assert "error: no" not in str(answer.json())
