"""Our side of Git's protocol, from answers made by hand: what is asked, what is understood, what is refused."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coderepos.exceptions import (
    GitError,
    PreambleTooLarge,
    RefNotFound,
    RemoteError,
    RemoteProtocolError,
    RepositoryEmpty,
    TooManyRefs,
)
from coderepos.git.limits import Limits
from coderepos.git.transport.http_connection import USER_AGENT
from coderepos.git.transport.pkt_line import TOO_MANY_LINES
from coderepos.git.transport.upload_pack import MAX_SHALLOW
from coderepos.git.wire import MESSAGE_BYTES, dump_line
from tests.support.fetch_child import Fetched
from tests.support.servers.hostile import (
    FLUSH,
    ID,
    SERVICE_LINE,
    V0_CAPABILITIES,
    V2_CAPABILITIES,
    advertisement,
    capabilities,
    ls_refs,
    pack_of,
    pkt,
    sideband,
)
from tests.support.servers.recorded import STAGES, Recorded, by_length, fetch_recorded, in_chunks

DELIM = b"0001"
OTHER = "2" * 40
PACK = pack_of((3, b"content"))
BANDS = b"".join(sideband(PACK, size=30)) + FLUSH
REFS = [("HEAD", ID), ("refs/heads/main", ID), ("refs/tags/x", OTHER)]

V2 = {"advertisement": capabilities(), "refs": ls_refs(REFS), "pack": pkt(b"packfile\n") + BANDS}
V0 = {"advertisement": advertisement(REFS), "refs": b"", "pack": pkt(b"NAK\n") + BANDS}
AGENT = f"agent={USER_AGENT}\n".encode()


def fetched(bodies: dict[str, bytes], **changes: Any) -> Fetched:
    """Fetch from answers with these bodies."""
    return fetch_recorded(Recorded({stage: by_length(bodies[stage], stage) for stage in STAGES}), **changes)


def asked(bodies: dict[str, bytes], **changes: Any) -> list[bytes]:
    """Fetch, and return the bodies of the requests."""
    connection = Recorded({stage: by_length(bodies[stage], stage) for stage in STAGES})
    fetch_recorded(connection, **changes)
    return [request.partition(b"\r\n\r\n")[2] for request in connection.requests]


def refused(bodies: dict[str, bytes], **changes: Any) -> dict[str, object]:
    """Return the fields of the protocol error that a fetch ends in."""
    with pytest.raises(RemoteProtocolError) as caught:
        fetched(bodies, **changes)
    return caught.value.fields


MALFORMED = {"reason": "malformed answer"}


def test_requests_of_version_2() -> None:
    """One ref, small deltas and the tags that belong along are asked for, and capabilities only where offered."""
    _, refs, pack = asked(V2)

    told = pkt(AGENT) + pkt(b"object-format=sha1\n") + DELIM
    prefixes = pkt(b"ref-prefix HEAD\n") + pkt(b"ref-prefix refs/tags/\n")
    assert refs == pkt(b"command=ls-refs\n") + told + pkt(b"symrefs\n") + prefixes + FLUSH
    arguments = [b"ofs-delta\n", b"include-tag\n", f"want {ID}\n".encode(), b"done\n"]
    assert pack == pkt(b"command=fetch\n") + told + b"".join(map(pkt, arguments)) + FLUSH

    bare = {**V2, "advertisement": capabilities([b"version 2\n", b"ls-refs\n", b"fetch=shallow wait-for-done\n"])}
    _, refs, pack = asked(bare, depth=3, count_only=True)
    assert refs == pkt(b"command=ls-refs\n") + DELIM + pkt(b"symrefs\n") + pkt(b"ref-prefix HEAD\n") + FLUSH
    arguments = [b"ofs-delta\n", b"deepen 3\n", f"want {ID}\n".encode(), b"done\n"]
    assert pack == pkt(b"command=fetch\n") + DELIM + b"".join(map(pkt, arguments)) + FLUSH


@pytest.mark.parametrize(
    ("offered", "names"),
    [
        (V0_CAPABILITIES, b"multi_ack_detailed side-band-64k thin-pack ofs-delta shallow include-tag " + AGENT),
        (b"multi_ack side-band side-band-64k no-done", b"multi_ack side-band-64k no-done\n"),
        (b"side-band object-format=sha1", b"side-band object-format=sha1\n"),
        (b"thin-pack no-progress allow-tip-sha1-in-want filter side-band", b"side-band thin-pack\n"),
    ],
)
def test_requests_of_version_0(offered: bytes, names: bytes) -> None:
    """The best of what the server offers is asked for, one kind of acknowledgements and side bands each."""
    _, pack = asked({**V0, "advertisement": advertisement(REFS, offered)})

    assert pack == pkt(f"want {ID} ".encode() + names) + FLUSH + pkt(b"done\n")


def test_requests_tell_the_version() -> None:
    """Version 2 is offered first, and spoken only to who agreed."""
    for bodies, answers in ((V2, [True, True, True]), (V0, [True, False])):
        connection = Recorded({stage: by_length(bodies[stage], stage) for stage in STAGES})
        fetch_recorded(connection)
        assert [b"Git-Protocol: version=2\r\n" in request for request in connection.requests] == answers


def test_advertisement_of_version_2_without_service_line() -> None:
    """gitprotocol-v2(5) puts nothing in front of the version, as new servers do."""
    assert fetched({**V2, "advertisement": V2["advertisement"].partition(FLUSH)[2]}).pack == PACK


def test_version_1() -> None:
    """Version 1 is version 0 with one line more."""
    start = pkt(SERVICE_LINE) + FLUSH
    answer = fetched({**V0, "advertisement": V0["advertisement"].replace(start, start + pkt(b"version 1\n"))})

    assert (answer.pack, answer.outcome["head_branch"]) == (PACK, "refs/heads/main")


@pytest.mark.parametrize("line_end", [b"\n", b""])
def test_refs_of_version_0(line_end: bytes) -> None:
    """HEAD's branch is a capability, tags are tag objects, and lines without a line feed are lines."""
    first = f"{ID} HEAD\0side-band-64k symref=OTHER:refs/heads/y symref=HEAD:refs/heads/main symref".encode()
    rest = [f"{ID} refs/heads/main", f"{OTHER} refs/tags/x", f"{ID} refs/tags/x^{{}}"]
    lines = b"".join(pkt(line + line_end) for line in (first, *map(str.encode, rest)))
    outcome = fetched({**V0, "advertisement": pkt(SERVICE_LINE) + FLUSH + lines + FLUSH}).outcome

    assert outcome["head_branch"] == "refs/heads/main"
    assert outcome["tags"] == (("refs/tags/x", OTHER),)


def test_refs_that_git_would_not_write() -> None:
    """Names with spaces, control bytes or no ``refs/`` are passed over, as git passes over them."""
    odd = [("refs/heads/a b", OTHER), ("refs/heads/a\x01b", OTHER), ("refs/tags/ x", OTHER), ("x", OTHER)]
    for bodies, stage, listed in ((V2, "refs", ls_refs), (V0, "advertisement", advertisement)):
        outcome = fetched({**bodies, stage: listed([*REFS, *odd])}).outcome

        assert outcome["tags"] == (("refs/tags/x", OTHER),)
        assert outcome["ref_name"] == "refs/heads/main"


@pytest.mark.parametrize(
    "bodies",
    [
        {**V2, "refs": FLUSH},
        {**V2, "refs": pkt(b"unborn HEAD symref-target:refs/heads/main\n") + FLUSH},
        {**V0, "advertisement": advertisement([("capabilities^{}", "0" * 40)])},
        {**V0, "advertisement": pkt(SERVICE_LINE) + FLUSH + FLUSH},
    ],
    ids=["v2", "v2 with an unborn HEAD", "v0", "old v0"],
)
@pytest.mark.parametrize("ref", ["", "main"])
def test_empty_repositories(bodies: dict[str, bytes], ref: str) -> None:
    """Each way to say that there is no ref is an answer of its own."""
    with pytest.raises(RepositoryEmpty):
        fetched(bodies, ref=ref)


@pytest.mark.parametrize(
    "bodies",
    [
        {**V2, "advertisement": capabilities([*V2_CAPABILITIES[:-1], b"object-format=sha256\n"])},
        {**V2, "refs": ls_refs([("HEAD", "1" * 64)])},
        {**V0, "advertisement": advertisement(REFS, b"object-format=sha256")},
        {**V0, "advertisement": advertisement([("HEAD", "1" * 64)])},
        {**V0, "advertisement": advertisement([("capabilities^{}", "0" * 64)], b"object-format=sha256")},
    ],
)
def test_sha256(bodies: dict[str, bytes]) -> None:
    """A repository with SHA-256 ids is refused with its reason, an empty one too."""
    assert refused(bodies) == {"reason": "SHA-256 object ids are not supported"}


def test_shallow_sections() -> None:
    """The commits where history is cut off are told, in both versions, and those of a repository that is cut off."""
    info = pkt(f"shallow {ID}\n".encode()) + pkt(f"shallow {ID}".encode())
    v2 = {**V2, "pack": pkt(b"shallow-info\n") + info + DELIM + V2["pack"]}
    v0 = {**V0, "pack": info + FLUSH + V0["pack"]}
    assert fetched(v2, depth=1).outcome["shallow"] == (ID,)
    assert fetched(v2).outcome["shallow"] == (ID,)
    assert fetched(v0, depth=1).outcome["shallow"] == (ID,)

    lines = V0["advertisement"][: -len(FLUSH)] + pkt(f"shallow {OTHER}\n".encode()) + FLUSH
    assert fetched({**V0, "advertisement": lines}).outcome["shallow"] == (OTHER,)
    assert fetched({**v0, "advertisement": lines}, depth=1).outcome["shallow"] == (ID,)


@pytest.mark.parametrize(
    "bodies",
    [
        {**V2, "advertisement": capabilities([b"version 2\n", b"ls-refs\n", b"fetch\n"])},
        {**V2, "advertisement": capabilities([b"version 2\n", b"ls-refs\n", b"fetch=not-shallow\n"])},
        {**V0, "advertisement": advertisement(REFS, b"side-band-64k")},
    ],
)
def test_depth_where_there_is_none(bodies: dict[str, bytes]) -> None:
    """A server that knows no depth is not asked for one."""
    assert fetched(bodies).pack == PACK
    assert refused(bodies, depth=1) == {"reason": "no shallow clones"}


@pytest.mark.parametrize("acknowledged", [b"NAK\n", b"NAK", f"ACK {ID}\n".encode()])
def test_ends_of_a_negotiation(acknowledged: bytes) -> None:
    """In version 0 a last word comes before the pack, with anything that servers say before it."""
    for before in (b"", pkt(f"ACK {ID} common\n".encode()) + pkt(f"ACK {ID} ready\n".encode())):
        assert fetched({**V0, "pack": before + pkt(acknowledged) + BANDS}).pack == PACK


def test_sections_that_were_not_asked_for() -> None:
    """Acknowledgements and refs that nobody asked for are passed over."""
    before = pkt(b"acknowledgments\n") + pkt(b"NAK\n") + pkt(b"ready\n") + DELIM
    wanted = pkt(b"wanted-refs\n") + pkt(f"{ID} refs/heads/main\n".encode()) + DELIM

    assert fetched({**V2, "pack": before + wanted + V2["pack"]}).pack == PACK


SHALLOW_INFO = pkt(b"shallow-info\n") + pkt(f"shallow {ID}\n".encode())


@pytest.mark.parametrize(
    "pack",
    [
        b"",
        FLUSH,
        DELIM + V2["pack"],
        BANDS,
        pkt(b"Packfile\n") + BANDS,
        pkt(b"packfile \n") + BANDS,
        pkt(b"shallow\n") + DELIM + V2["pack"],
        SHALLOW_INFO,
        SHALLOW_INFO + FLUSH + V2["pack"],
        SHALLOW_INFO + V2["pack"],
        SHALLOW_INFO + DELIM + SHALLOW_INFO + DELIM + V2["pack"],
        pkt(b"wanted-refs\n") + DELIM + SHALLOW_INFO + DELIM + V2["pack"],
        pkt(b"acknowledgments\n") + DELIM + pkt(b"acknowledgments\n") + DELIM + V2["pack"],
        pkt(b"shallow-info\n") + pkt(b"shallow x\n") + DELIM + V2["pack"],
        pkt(b"shallow-info\n") + pkt(f"unshallow {ID}\n".encode()) + DELIM + V2["pack"],
        pkt(b"shallow-info\n")
        + pkt(f"shallow {ID}\n".encode())
        + pkt(f"unshallow {ID}\n".encode())
        + DELIM
        + V2["pack"],
        pkt(b"shallow-info\n") + pkt(f"shallow {'1' * 64}\n".encode()) + DELIM + V2["pack"],
        pkt(b"shallow-info\n") + pkt(f"Shallow {ID}\n".encode()) + DELIM + V2["pack"],
        V2["pack"][: -len(FLUSH)],
        V2["pack"][: -len(FLUSH)] + DELIM,
        V0["pack"],
    ],
)
def test_malformed_sections(pack: bytes) -> None:
    """Sections that are unknown, out of order, repeated or cut off are refused, an answer in version 0 too."""
    assert refused({**V2, "pack": pack}) == MALFORMED


@pytest.mark.parametrize(
    "pack",
    [
        b"",
        FLUSH,
        BANDS,
        V2["pack"],
        PACK,
        pkt(b"NAK x\n") + BANDS,
        pkt(b"ACK x\n") + BANDS,
        pkt(f"ACK {ID} other\n".encode()) + BANDS,
        DELIM + V0["pack"],
        FLUSH + V0["pack"],
        pkt(b"NAK\n") + PACK,
        pkt(b"NAK\n") + V0["pack"],
    ],
)
def test_malformed_packs_of_version_0(pack: bytes) -> None:
    """Without acknowledgement, with a false one or without side bands there is no pack."""
    assert refused({**V0, "pack": pack}) == MALFORMED


@pytest.mark.parametrize(
    "lines",
    [
        b"",
        SERVICE_LINE,
        pkt(b"# service=git-receive-pack\n") + FLUSH + V0["advertisement"],
        pkt(SERVICE_LINE) + DELIM + V0["advertisement"],
        pkt(SERVICE_LINE) + pkt(SERVICE_LINE) + FLUSH + V0["advertisement"],
        pkt(b"version 3\n") + FLUSH,
        pkt(b"version 2 \n") + FLUSH,
        pkt(b"version 2\n"),
        pkt(b"version 2\n") + FLUSH,
        pkt(b"version 2\n") + pkt(b"ls-refs\n") + FLUSH,
        pkt(b"version 2\n") + pkt(b"fetch\n") + FLUSH,
        pkt(b"version 1\n") + V2["advertisement"],
        pkt(f"{ID} HEAD\0x\n".encode()),
        pkt(f"{ID} HEAD\0x\n".encode()) + DELIM,
        pkt(f"{ID}  HEAD\0x\n".encode()) + FLUSH,
        pkt(f"{ID[1:]} HEAD\0x\n".encode()) + FLUSH,
        pkt(f"{ID} HEAD\0x\n".encode()) + pkt(f"{ID} refs/heads/x\0y\n".encode()) + FLUSH,
        pkt(f"{ID} HEAD\0x\n".encode()) + pkt(f"{ID} \n".encode()) + FLUSH,
        pkt(f"{ID} HEAD\0x\n".encode()) + pkt(f"shallow {ID}\n".encode()) + pkt(f"{ID} x\n".encode()) + FLUSH,
    ],
)
def test_malformed_advertisements(lines: bytes) -> None:
    """What is no advertisement of a version that we speak is refused."""
    assert refused({**V2, "advertisement": lines}) == MALFORMED


@pytest.mark.parametrize("refs", [b"", DELIM, V0["advertisement"], V2["advertisement"], V2["pack"]])
def test_malformed_refs(refs: bytes) -> None:
    """What is no list of refs is refused, an advertisement halfway through too."""
    assert refused({**V2, "refs": refs}) == MALFORMED


def test_commit_that_the_server_does_not_give_away() -> None:
    """An error in place of the pack of a commit by its id means that there is no such commit."""
    for bodies in (V2, V0):
        for pack in (pkt(b"ERR upload-pack: not our ref\n"), b""):
            with pytest.raises(RefNotFound):
                fetched({**bodies, "pack": pack}, ref="3" * 40)
    with pytest.raises(RemoteError):
        fetched({**V2, "pack": pkt(b"packfile\n") + pkt(b"\1PACK") + pkt(b"\3not our ref")}, ref="3" * 40)


@pytest.mark.parametrize(
    ("bodies", "stage", "answer"),
    [
        (V2, "advertisement", pkt(SERVICE_LINE) + FLUSH + pkt(b"ERR try later\n")),
        (V2, "advertisement", pkt(b"ERR try later\n")),
        (V2, "advertisement", pkt(b"version 2\n") + pkt(b"ERR try later\n")),
        (V2, "refs", pkt(b"ERR try later\n")),
        (V2, "refs", ls_refs(REFS)[: -len(FLUSH)] + pkt(b"ERR try later\n")),
        (V2, "pack", pkt(b"ERR try later\n")),
        (V2, "pack", pkt(b"packfile\n") + pkt(b"\2counting") + pkt(b"\3try later\n")),
        (V2, "pack", pkt(b"packfile\n") + pkt(b"\1PACK") + pkt(b"\3try later\n")),
        (V0, "advertisement", pkt(f"{ID} HEAD\0x\n".encode()) + pkt(b"ERR try later\n")),
        (V0, "pack", pkt(b"ERR try later\n")),
        (V0, "pack", pkt(b"NAK\n") + pkt(b"\3try later\n")),
    ],
)
def test_what_the_server_reports(bodies: dict[str, bytes], stage: str, answer: bytes) -> None:
    """An error that the server reports, at any point, is one of its own and says what the server says."""
    with pytest.raises(RemoteError) as caught:
        fetched({**bodies, stage: answer})

    assert caught.value.fields == {"remote_text": "try later"}
    assert caught.value.message == "The Git host reported an error: try later"
    assert caught.value.retryable


def test_errors_that_have_nothing_to_do_with_the_commit() -> None:
    """What the server reports while a commit is asked for by its id is shown, unless it is about that commit."""
    with pytest.raises(RemoteError):
        fetched({**V2, "pack": pkt(b"ERR access denied\n")}, ref="3" * 40)
    for text in (b"want %s not valid", b"The object '%s' does not exist."):
        with pytest.raises(RefNotFound):
            fetched({**V2, "pack": pkt(b"ERR " + text % (b"3" * 40))}, ref="3" * 40)


@pytest.mark.parametrize("bodies", [V2, V0])
def test_number_of_refs(bodies: dict[str, bytes]) -> None:
    """Exactly as many refs as are allowed pass; peeled tags are not counted."""
    many = {
        "advertisement": advertisement([*REFS, ("refs/tags/x^{}", ID)]) if bodies is V0 else bodies["advertisement"]
    }
    assert fetched({**bodies, **many}, limits=Limits(listed_refs=3)).pack == PACK
    with pytest.raises(TooManyRefs) as caught:
        fetched({**bodies, **many}, limits=Limits(listed_refs=2))

    assert caught.value.fields == {"figure": 3, "limit": 2}


@pytest.mark.parametrize("bodies", [V2, V0])
def test_number_and_size_of_tags(bodies: dict[str, bytes]) -> None:
    """Tags beyond a number, or beyond what a message holds, are counted and left out."""
    stage, listed = ("refs", ls_refs) if bodies is V2 else ("advertisement", advertisement)
    short = [(f"refs/tags/{number}", OTHER) for number in range(20)]
    long = [(f"refs/tags/{number}" + "ü" * 1_000, OTHER) for number in range(1_000)]
    for tags, limits, kept in ((short, Limits(refs=15), 15), (long, Limits(), 4_000_000 // 12_062)):
        outcome = fetched({**bodies, stage: listed([*REFS[:2], *tags])}, limits=limits).outcome

        assert kept - 2 <= len(outcome["tags"]) <= kept
        assert outcome["skipped_tags"] == len(tags) - len(outcome["tags"])
        assert len(json.dumps(outcome)) < MESSAGE_BYTES


def test_refs_are_counted_while_they_arrive() -> None:
    """The error comes before the end of what is sent."""
    endless = b"".join(pkt(f"{ID} refs/tags/{number}\n".encode()) for number in range(100_000))
    connection = Recorded(
        {stage: by_length(body, stage) for stage, body in {**V2, "refs": endless}.items()}, [10_000] * 1_000
    )
    with pytest.raises(TooManyRefs):
        fetch_recorded(connection, limits=Limits(listed_refs=100), count_only=True)

    assert connection.meter.received_bytes < 30_000


@pytest.mark.parametrize("more", [0, 1])
def test_outcome_fits_into_a_message(more: int) -> None:
    """However many tags there are and commits that history ends at; further ones are an error that says so."""
    ends = b"".join(pkt(b"shallow %040x" % number) for number in range(MAX_SHALLOW + more))
    tags = [("HEAD", ID), ("refs/heads/main", ID), *((f"refs/tags/{number:025}", ID) for number in range(49_000))]
    v2 = {
        "advertisement": capabilities(),
        "refs": ls_refs(tags),
        "pack": pkt(b"shallow-info\n") + ends + DELIM + pkt(b"packfile\n") + BANDS,
    }
    v0 = {**V0, "advertisement": advertisement(REFS).removesuffix(FLUSH) + ends + FLUSH}
    if more:
        assert refused(v2, depth=1) == refused(v0) == {"reason": TOO_MANY_LINES}
    else:
        for outcome in (fetched(v2, depth=1).outcome, fetched(v0).outcome):
            assert len(outcome["shallow"]) == MAX_SHALLOW
            assert len(dump_line({"event": "outcome", **outcome})) < MESSAGE_BYTES


@pytest.mark.parametrize("name", [b"one", b"fetch"])
def test_capability_that_is_told_many_times(name: bytes) -> None:
    """Time is that of the bytes, as in every answer."""
    lines = [b"version 2\n", b"ls-refs\n", b"fetch=shallow\n", *[name + b"=" + b"x" * 30] * 80_000]
    started = time.process_time()
    assert fetched({**V2, "advertisement": capabilities(lines)}).pack == PACK
    assert time.process_time() - started < 3


def test_acknowledgements_without_end() -> None:
    """A negotiation that nobody began ends in an error."""
    flood = pkt(f"ACK {ID} common\n".encode()) * 2_000
    assert refused({**V0, "pack": flood}, limits=Limits(refs=100)) == {"reason": "too many lines"}


def test_bytes_before_the_pack() -> None:
    """More than the limit before the pack is an error with its figures, whatever it consists of."""
    limits = Limits(preamble_bytes=100_000)
    progress = pkt(b"\2" + b"." * 50_000)
    floods = {
        "advertisement": capabilities([*V2_CAPABILITIES, *[b"x" * 60_000] * 2]),
        "refs": pkt(ID.encode() + b" HEAD " + b"x" * 60_000) * 2 + FLUSH,
        "pack": pkt(b"packfile\n") + progress * 3 + BANDS,
    }
    for stage, body in floods.items():
        sizes = [1_000] * 200
        connection = Recorded({one: by_length({**V2, stage: body}[one], one) for one in STAGES}, sizes)
        with pytest.raises(PreambleTooLarge) as caught:
            fetch_recorded(connection, limits=limits)
        assert 100_000 < int(str(caught.value.fields["figure"])) < 102_000
        assert caught.value.fields["limit"] == 100_000


@pytest.mark.parametrize("count_only", [True, False], ids=["probe", "clone"])
@pytest.mark.parametrize("bodies", [V2, V0], ids=["v2", "v0"])
def test_long_list_before_much_progress(bodies: dict[str, bytes], count_only: bool) -> None:
    """A list of refs just within the limit leaves as much for the progress: the clone ends as its probe did."""
    stage, listed = ("refs", ls_refs) if bodies is V2 else ("advertisement", advertisement)
    refs = listed([*REFS[:2], *((f"refs/tags/{number:05}", OTHER) for number in range(1_400))])
    progress = pkt(b"\2" + b"." * 40_000)
    start = pkt(b"packfile\n") if bodies is V2 else pkt(b"NAK\n")
    many = {**bodies, stage: refs, "pack": start + progress + BANDS}

    assert fetched(many, limits=Limits(preamble_bytes=100_000), count_only=count_only).outcome["pack_bytes"]


def test_chunks_of_one_byte() -> None:
    """A million chunks are refused long before their bytes would be too many."""
    body = pkt(b"packfile\n") + pkt(b"\2" + b"x" * 60_000) * 20
    answers = {stage: by_length(V2[stage], stage) for stage in STAGES} | {"pack": in_chunks(body, "pack", size=1)}
    with pytest.raises(PreambleTooLarge):
        fetch_recorded(Recorded(answers, [10_000] * 10_000))


@pytest.mark.parametrize("bodies", [V2, V0])
@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 60), max_size=60), chunked=st.booleans())
def test_result_does_not_depend_on_how_bytes_arrive(bodies: dict[str, bytes], sizes: list[int], chunked: bool) -> None:
    """However the answers are cut into receives and chunks, the same pack and outcome come out."""
    framed = in_chunks if chunked else by_length
    answer = fetch_recorded(Recorded({stage: framed(bodies[stage], stage) for stage in STAGES}, sizes))

    assert (answer.pack, answer.outcome) == (PACK, fetched(bodies).outcome)


@pytest.mark.parametrize("mask", [1, 0x20, 0x80])
@pytest.mark.parametrize("framed", [by_length, in_chunks])
@pytest.mark.parametrize("bodies", [V2, V0], ids=["v2", "v0"])
def test_any_changed_byte_ends_in_an_error_of_ours_or_in_none(bodies: dict[str, bytes], framed: Any, mask: int) -> None:
    """Every byte of a whole exchange is changed in turn: no foreign exception comes out, and nothing hangs."""
    for stage in STAGES:
        whole = {one: framed(bodies[one], one) for one in STAGES}
        for position in range(len(whole[stage])):
            changed = bytearray(whole[stage])
            changed[position] ^= mask
            with suppress(GitError):
                fetch_recorded(Recorded({**whole, stage: bytes(changed)}))


@pytest.mark.parametrize("framed", [by_length, in_chunks])
@pytest.mark.parametrize("bodies", [V2, V0], ids=["v2", "v0"])
def test_any_cut_ends_in_an_error_of_ours(bodies: dict[str, bytes], framed: Any) -> None:
    """A connection that ends at any byte of an exchange ends the fetch, unless the pack was whole."""
    for stage in STAGES:
        whole = {one: framed(bodies[one], one) for one in STAGES}
        for end in range(len(whole[stage])):
            try:
                answer = fetch_recorded(Recorded({**whole, stage: whole[stage][:end]}))
            except GitError:
                continue
            assert answer.pack == PACK
