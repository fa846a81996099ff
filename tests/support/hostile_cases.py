"""Hostile servers and repositories for whole clones and probes: what each says, and how the clone has to end."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Final

from coderepos.git.limits import MB, Limits
from tests.support import packs
from tests.support.bombs import bomb, doubling, wide
from tests.support.hostile_answers import (
    ECHOES,
    at,
    body,
    endless,
    headers_drip,
    million_refs,
    redirect,
    stalls,
    v0_million,
)
from tests.support.packs import (
    FILE,
    FOLDER,
    GITLINK,
    LINK,
    PROGRAM,
    Line,
    Object,
    blob,
    copy,
    delta,
    entry,
    entry_header,
    insert,
    ofs_delta,
    ref_delta,
)
from tests.support.servers.hostile import (
    ADVERTISEMENT,
    FLUSH,
    ID,
    RESULT,
    SERVICE_LINE,
    V2_CAPABILITIES,
    Answer,
    HostileServer,
    advertisement,
    capabilities,
    ls_refs,
    pkt,
    sideband,
    v2_server,
)
from tests.support.servers.http_server import Exchange

TIMED_OUT: Final = ("clone_timeout", "remote_timeout")
"""Child and parent keep the same deadline."""

PATIENT: Final = Limits(clone_seconds=60)
HASTY: Final = Limits(clone_seconds=1.2)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One server and how it has to end."""

    name: str
    answer: Callable[[str], Answer]
    """Makes the server's answers; is given ``host:port`` of a listener that nobody may connect to."""

    codes: tuple[str, ...] = ()
    """Codes of the errors that it may end in; none means that the clone succeeds."""

    limits: Limits = PATIENT
    wall_seconds: float | None = None
    """Bound where a deadline is the point."""

    least_mb: float = 0
    """What the build child surely takes: the control of the figures."""

    reason: str | None = None
    """What a protocol error has to name, where several lie close together."""

    is_probed: bool = False
    """Whether a probe ends in the same way."""

    holds: Mapping[str, bytes] = field(default_factory=dict)
    """Content of regular files in the tree."""

    substitutions: Mapping[str, int] = field(default_factory=dict)
    server: type[HostileServer] = HostileServer


# Repositories

CONTENT: Final = blob()
INNER: Final = packs.tree(Line(FILE, b"inner", CONTENT.id))


def repository(*objects: Object, root: Object | None = None, raw: tuple[bytes, ...] = ()) -> tuple[bytes, str]:
    """Return a pack of these objects and a commit of ``root``, the last one unless given; and the commit's id."""
    head = packs.commit(root or objects[-1])
    return packs.pack([head, *objects], raw), head.id


def serving(content: bytes, head_id: str = ID) -> Answer:
    """Return a server of one pack."""
    refs = (("HEAD", head_id), ("refs/heads/main", head_id))
    return v2_server(refs, lambda exchange: sideband(content))


def valid() -> Answer:
    """Return a server with nothing wrong."""
    target = blob(b"file")
    root = packs.tree(
        Line(FILE, b"file", CONTENT.id), Line(FOLDER, b"folder", INNER.id), Line(LINK, b"link", target.id)
    )
    return serving(*repository(CONTENT, INNER, target, root))


def pack_case(name: str, make: Callable[[], bytes], *codes: str) -> Case:
    """Return a case of one hostile pack."""
    return Case(name=name, answer=lambda _internal: serving(make()), codes=codes)


def tree_case(name: str, make: Callable[[], tuple[bytes, str]], *codes: str) -> Case:
    """Return a case of a well-formed pack with a hostile tree."""
    return Case(name=name, answer=lambda _internal: serving(*make()), codes=codes)


def named(mode: bytes, name: bytes) -> Callable[[], tuple[bytes, str]]:
    """Return a repository with one entry of this name."""
    target = {FOLDER: INNER.id, GITLINK: ID}.get(mode, CONTENT.id)
    return lambda: repository(CONTENT, INNER, packs.tree(Line(mode, name, target), Line(FILE, b"other", CONTENT.id)))


def long_chain() -> tuple[bytes, str]:
    """Return 20,000 deltas on each other; the tree has the last one."""
    number = 20_000
    step = entry(blob(b"%08d" % 0))
    entries = [step]
    for one in range(1, number):
        step = ofs_delta(len(step), delta(8, 8, insert(b"%08d" % one)))
        entries.append(step)
    root = packs.tree(Line(FILE, b"last", blob(b"%08d" % (number - 1)).id))
    head = packs.commit(root)
    return packs.pack(raw=[*entries, entry(root), entry(head)]), head.id


def long_chain_by_id() -> tuple[bytes, str]:
    """Return the same backwards: every base comes after its delta."""
    number = 20_000
    steps = [ref_delta(blob(b"%08d" % (one - 1)).id, delta(8, 8, insert(b"%08d" % one))) for one in range(1, number)]
    root = packs.tree(Line(FILE, b"last", blob(b"%08d" % (number - 1)).id))
    head = packs.commit(root)
    return packs.pack(raw=[*reversed(steps), entry(blob(b"%08d" % 0)), entry(root), entry(head)]), head.id


def many_links_to_one_blob() -> tuple[bytes, str]:
    """Return 2,000 files that are the same 1 MB."""
    large = blob(bytes(MB))
    large_id = large.id
    return repository(large, packs.tree(*(Line(FILE, b"%04d" % number, large_id) for number in range(2_000))))


def many_entries() -> tuple[bytes, str]:
    """Return a tree with 200,000 entries."""
    content_id = CONTENT.id
    return repository(CONTENT, packs.tree(*(Line(FILE, b"%06d" % number, content_id) for number in range(200_000))))


def large_delta() -> tuple[bytes, str]:
    """Return a file of 90 MB, which is valid, as a delta to one of 45 MB."""
    size = 45 * MB
    copies = b"".join(copy(start, min(0xFFFFFF, size - start)) for start in range(0, size, 0xFFFFFF))
    base = entry_header(3, size) + bomb(size)
    root = packs.tree(Line(FILE, b"large", blob(bytes(2 * size)).id))
    head = packs.commit(root)
    raw = [base, ofs_delta(len(base), delta(size, 2 * size, copies, copies)), entry(root), entry(head)]
    return packs.pack(raw=raw), head.id


def git_bomb() -> tuple[bytes, str]:
    """Return ten trees that stand for 10**10 files."""
    trees = [packs.tree(*(Line(FILE, b"%d" % number, CONTENT.id) for number in range(10)))]
    for _ in range(9):
        trees.append(packs.tree(*(Line(FOLDER, b"%d" % number, trees[-1].id) for number in range(10))))
    return repository(CONTENT, *trees)


def deep(levels: int) -> tuple[bytes, str]:
    """Return so many directories in each other."""
    trees = [INNER]
    for _ in range(levels):
        trees.append(packs.tree(Line(FOLDER, b"d", trees[-1].id)))
    return repository(CONTENT, *trees)


def written_through(*modes: bytes) -> Case:
    """Return a case of a tree that has the same name more than once, the first one a link out of it."""
    target = blob(b"../git")
    files = {FILE: CONTENT, FOLDER: INNER, LINK: target}
    root = packs.tree(*(Line(mode, b"x", files[mode].id) for mode in modes), is_sorted=False)
    return Case(
        name=f"the same name as {', '.join({FILE: 'file', FOLDER: 'directory', LINK: 'link'}[mode] for mode in modes)}",
        answer=lambda _internal: serving(*repository(CONTENT, INNER, target, root)),
        substitutions={"duplicate": len(modes) - 1},
        holds={"x" if modes[-1] == FILE else "x/inner": CONTENT.content},
    )


def buried_repository() -> Case:
    """Return a case of a tree that looks like a repository whose configuration runs a command."""
    config = blob(b"[core]\n\trepositoryformatversion = 0\n\tworktree = refs\n\tfsmonitor = touch /tmp/x\n")
    head = blob(b"ref: refs/heads/main\n")
    lines = [Line(FILE, b"HEAD", head.id), Line(FILE, b"config", config.id)]
    lines += [Line(FOLDER, name, INNER.id) for name in (b"objects", b"refs")]
    inner = packs.tree(*lines)
    root = packs.tree(*lines, Line(FOLDER, b"deeper", inner.id))
    return Case(
        name="working tree that looks like a repository",
        answer=lambda _internal: serving(*repository(CONTENT, INNER, config, head, inner, root)),
        substitutions={"bare_repository": 2},
        holds={"config": config.content, "deeper/HEAD": head.content},
    )


LINKS: Final = {
    b"absolute": b"/etc/passwd",
    b"above": b"../../../../etc/passwd",
    b"data": b"../git/config",
    b"first": b"second",
    b"second": b"third",
    b"third": b"../git",
    b"through": b"folder/../../git",
    b"round": b"round",
}


def secret_links() -> tuple[bytes, str]:
    """Return links to secrets, straight and by chains."""
    targets = {name: blob(target) for name, target in LINKS.items()}
    lines = [Line(LINK, name, target.id) for name, target in targets.items()]
    return repository(CONTENT, INNER, *targets.values(), packs.tree(*lines, Line(FOLDER, b"folder", INNER.id)))


POINTER: Final = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


def requesting(internal: str) -> Answer:
    """Return a repository whose files name an internal server in every way that some Git client follows."""
    url = f"http://{internal}/x".encode()
    files = {
        b".gitattributes": b"* filter=lfs diff=lfs merge=lfs -text\n",
        b".lfsconfig": b"[lfs]\n\turl = %s\n[lfs %s]\n\taccess = basic\n" % (url, b'"' + url + b'"'),
        b".gitmodules": b'[submodule "m"]\n\tpath = module\n\turl = %s\n\tupdate = !touch /tmp/x\n' % url,
        b"large.bin": POINTER,
    }
    blobs = {name: blob(content) for name, content in files.items()}
    lines = [Line(FILE, name, one.id) for name, one in blobs.items()]
    return serving(*repository(*blobs.values(), packs.tree(*lines, Line(GITLINK, b"module", ID))))


# Servers


def one_entry(content: bytes) -> bytes:
    """Return a pack that says it has one entry."""
    return packs.sealed(packs.header(1) + content)


ENDLESS: Final = b"\xff" * 1_000_000


def endless_pack(exchange: Exchange) -> Iterator[bytes]:
    """Yield a valid start of a pack, then objects without end."""
    yield from sideband(packs.header(400_000))
    noise = bytes(range(256)) * 4_000
    piece = b"".join(sideband(entry(blob(noise), level=0)))
    yield from endless(piece)(exchange)


def dripping(exchange: Exchange) -> Iterator[bytes]:
    """Yield one byte of a pack each second."""
    for byte in packs.header(400_000) + ENDLESS:
        yield pkt(b"\1" + bytes([byte]))
        if not exchange.wait(1):
            return


def chatting(exchange: Exchange) -> Iterator[bytes]:
    """Yield progress for ever, at leisure."""
    for number in count():
        yield pkt(b"\2Counting objects: %d\r" % number)
        if not exchange.wait(0.05):
            return


def cut_pack(ending: bytes) -> Callable[[str], Answer]:
    """Return a server of a valid pack whose answer ends in this instead of a flush."""
    content, _ = repository(CONTENT, packs.tree(Line(FILE, b"file", CONTENT.id)))
    return lambda _internal: at("pack", body(pkt(b"packfile\n") + b"".join(sideband(content)) + ending))


def packfile_uris(internal: str) -> Answer:
    """Return a server that has the pack elsewhere."""
    uris = pkt(b"packfile-uris\n") + pkt(f"https://{internal}/x.pack sha1 {ID}\n".encode())
    return at("pack", body(uris + pkt(b"packfile\n") + b"".join(sideband(packs.pack())) + FLUSH))


def outside_head() -> Answer:
    """Return a valid repository whose HEAD points out of ``refs/``."""
    content, head_id = repository(CONTENT, packs.tree(Line(FILE, b"file", CONTENT.id)))
    inner = v2_server((("HEAD", head_id),), lambda exchange: sideband(content))

    def answer(exchange: Exchange) -> None:
        if exchange.is_ls_refs:
            exchange.answer(pkt(f"{head_id} HEAD symref-target:../../hooks/x\n".encode()) + FLUSH, RESULT)
        else:
            inner(exchange)

    return answer


def sha256_v2() -> Answer:
    """Return a v2 server of a SHA-256 repository."""
    lines = [line for line in V2_CAPABILITIES if not line.startswith(b"object-format")]
    inner = v2_server((("HEAD", "1" * 64), ("refs/heads/main", "1" * 64)))
    return lambda exchange: (
        exchange.answer(capabilities([*lines, b"object-format=sha256\n"]), ADVERTISEMENT)
        if exchange.is_advertisement
        else inner(exchange)
    )


class StalledTls(HostileServer):
    """Takes connections and never says a word of TLS."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(greet=self._hold)

    @property
    def url(self) -> str:
        return f"https://{self.host}/owner/repository.git"

    @staticmethod
    def _hold(connection: socket.socket, stopping: threading.Event) -> None:
        stopping.wait(30)


def wire_case(name: str, answer: Answer, *codes: str, is_probed: bool = True) -> Case:
    """Return a case of a hostile server that breaks the protocol."""
    return Case(name=name, answer=lambda _internal: answer, codes=codes, is_probed=is_probed)


def slow_case(name: str, answer: Answer, *, server: type[HostileServer] = HostileServer) -> Case:
    """Return a case that ends at the deadline."""
    return Case(
        name=name,
        answer=lambda _internal: answer,
        codes=TIMED_OUT,
        limits=HASTY,
        wall_seconds=HASTY.clone_seconds + 3,
        is_probed=True,
        server=server,
    )


def redirected(stage: str, status: int, path: str) -> Case:
    """Return a case of a redirect to the internal listener."""
    return Case(
        name=f"redirect {status} at {stage}",
        answer=lambda internal: at(stage, redirect(status, f"http://{internal}{path}")),
        codes=("remote_protocol_error",),
        is_probed=True,
    )


def echoed(stage: str, name: str, code: str) -> Case:
    """Return a case of a server that prints the token back."""
    return Case(
        name=f"token echoed in {name} at {stage}",
        answer=lambda _internal: at(stage, ECHOES[name]),
        codes=(code,),
        is_probed=True,
    )


MALFORMED: Final = "remote_protocol_error"
UNSAFE: Final = "unsafe_repository"

PACKS: Final = (
    pack_case(
        "zlib bomb of 512 MB",
        lambda: packs.pack(raw=[entry_header(3, 512 * MB) + bomb(512 * MB)]),
        "object_too_large",
    ),
    pack_case(
        "100 MB objects, each at the limit",
        lambda: packs.pack(raw=[entry_header(3, 100 * MB) + bomb(100 * MB)] * 20),
        "inflated_too_large",
    ),
    pack_case(
        "delta to 1 GB",
        lambda: packs.pack([CONTENT], raw=[ref_delta(CONTENT.id, delta(8, 10**9, copy(0, 8)))]),
        "object_too_large",
    ),
    pack_case("100 deltas to 64 MB each", lambda: packs.pack(raw=list(wide(100, 64 * MB, 1))), "inflated_too_large"),
    pack_case("doubling chain of deltas", lambda: packs.pack(raw=list(doubling(20, 1_000))), "object_too_large"),
    pack_case(
        "delta to 2^40",
        lambda: packs.pack([CONTENT], raw=[ref_delta(CONTENT.id, delta(8, 2**40, copy(0, 8)))]),
        "object_too_large",
    ),
    pack_case("size of 1 MB", lambda: one_entry(b"\xb0" + ENDLESS), MALFORMED),
    pack_case("offset of 1 MB", lambda: one_entry(b"\x60" + ENDLESS), MALFORMED),
    pack_case("offset 0", lambda: one_entry(ofs_delta(0, delta(1, 1, copy(0, 1)))), MALFORMED),
    pack_case("offset before the pack", lambda: one_entry(ofs_delta(5_000, delta(1, 1, copy(0, 1)))), MALFORMED),
    pack_case(
        "deltas in a circle beside a whole object",
        lambda: packs.pack(
            [CONTENT],
            raw=[
                ref_delta(blob(b"other").id, delta(5, 8, insert(CONTENT.content))),
                ref_delta(CONTENT.id, delta(8, 5, insert(b"other"))),
            ],
        ),
        MALFORMED,
    ),
    pack_case(
        "delta whose base is itself",
        lambda: packs.pack(raw=[ref_delta(CONTENT.id, delta(8, 8, copy(0, 8)))]),
        MALFORMED,
    ),
    pack_case("2^32 - 1 objects in the header", lambda: packs.sealed(packs.header(2**32 - 1)), "too_many_objects"),
    pack_case(
        "1,000,000 objects",
        lambda: packs.sealed(packs.header(10**6) + entry(CONTENT) * 10**6),
        "too_many_objects",
    ),
    pack_case(
        "500,000 objects of one id",
        lambda: packs.sealed(packs.header(500_000) + entry(CONTENT) * 500_000),
        MALFORMED,
    ),
    pack_case("two deltas to 70 MB each", lambda: packs.pack(raw=list(wide(2, 70 * MB, 1))), MALFORMED),
    Case(name="valid delta to 90 MB", answer=lambda _internal: serving(*large_delta()), least_mb=90),
    tree_case("chain of 20,000 deltas", long_chain),
    tree_case("chain of 20,000 deltas by id, backwards", long_chain_by_id),
    Case(
        name="wanted object not in the pack",
        answer=lambda _internal: serving(repository(CONTENT, INNER)[0], ID),
        codes=(MALFORMED,),
    ),
)

TREES: Final = (
    tree_case("2,000 files of one 1 MB blob", many_links_to_one_blob, "repository_too_large"),
    tree_case("10^10 files in 10 trees", git_bomb, "too_many_entries"),
    tree_case("200,000 entries", many_entries, "too_many_entries"),
    tree_case("1,500 directories deep", lambda: deep(1_500), "tree_too_deep"),
    written_through(FILE, FILE),
    written_through(LINK, FILE),
    written_through(LINK, FOLDER),
    written_through(FOLDER, LINK, FOLDER),
    buried_repository(),
    # Every name as every kind: test_checkout.
    *(
        tree_case(f'"{name.decode("ascii", "backslashreplace")}" as a {kind}', named(mode, name), UNSAFE)
        for kind, mode, name in (
            ("file", FILE, b".git"),
            ("directory", FOLDER, b".GIT"),
            ("link", LINK, b"git~1"),
            ("submodule", GITLINK, b".git "),
            ("directory", FOLDER, b".g\xe2\x80\x8cit"),
            ("directory", FOLDER, b".git::$INDEX_ALLOCATION"),
            ("directory", FOLDER, b".."),
            ("file", FILE, b"../evil"),
            ("program", PROGRAM, b"/etc/cron.d/evil"),
            ("link", LINK, b""),
        )
    ),
    Case(
        name="names with escape sequences",
        answer=lambda _internal: serving(*named(FILE, b"\x1b[31m\nx")()),
        substitutions={"name": 1},
        holds={"other": CONTENT.content},
    ),
    Case(
        name="names that other systems refuse",
        answer=lambda _internal: serving(
            *repository(
                CONTENT,
                packs.tree(*(Line(FILE, one, CONTENT.id) for one in (b"-rf", b"..\\evil", b"C:evil", b"con", b"\xff"))),
            )
        ),
        holds={"-rf": CONTENT.content, "..\\evil": CONTENT.content},
    ),
    Case(
        name="links to secrets and chains of them",
        answer=lambda _internal: serving(*secret_links()),
        substitutions={"symlink": len(LINKS)},
        holds={name.decode(): target for name, target in LINKS.items()},
    ),
    Case(
        name="LFS pointer, .lfsconfig and .gitmodules with internal URLs",
        answer=requesting,
        substitutions={"gitlink": 1, "lfs_pointer": 1},
        holds={"large.bin": POINTER},
    ),
)

SERVERS: Final = (
    Case(
        name="endless pack",
        answer=lambda _internal: v2_server(pack=endless_pack),
        codes=("repository_too_large",),
        is_probed=True,
    ),
    slow_case("pack of 1 byte a second", v2_server(pack=dripping)),
    slow_case("progress without end, slowly", v2_server(pack=chatting)),
    wire_case("progress without end", v2_server(pack=endless(pkt(b"\2" + b"." * 60_000))), "preamble_too_large"),
    slow_case("dripping headers", headers_drip),
    slow_case("silence after the request for a pack", at("pack", stalls)),
    slow_case("TLS handshake that stalls", stalls, server=StalledTls),
    wire_case("pkt-line 0003", at("advertisement", body(pkt(SERVICE_LINE) + FLUSH + b"0003")), MALFORMED),
    wire_case("pkt-line -001", at("refs", body(b"-001")), MALFORMED),
    wire_case("pkt-line ffff, cut off", at("pack", body(pkt(b"packfile\n") + b"ffff\1" + b"x" * 99)), MALFORMED),
    Case(name="no flush after the pack", answer=cut_pack(b""), codes=(MALFORMED,), is_probed=True),
    Case(name="pkt-line 0003 after the pack", answer=cut_pack(b"0003"), codes=(MALFORMED,), is_probed=True),
    wire_case(
        "gzip bomb as an answer",
        lambda exchange: exchange.answer(gzip.compress(bytes(50 * MB), 1), ADVERTISEMENT, Content_Encoding="gzip"),
        MALFORMED,
    ),
    redirected("advertisement", 302, "/owner/repository.git/info/refs?service=git-upload-pack"),
    redirected("refs", 308, "/owner/repository.git/git-upload-pack"),
    redirected("pack", 307, "/owner/repository.git/git-upload-pack"),
    wire_case(
        "files of a dumb server",
        lambda exchange: exchange.answer(f"{ID}\trefs/heads/main\n".encode() * 10**5, "text/plain; charset=utf-8"),
        MALFORMED,
    ),
    Case(
        name="packfile-uris",
        answer=packfile_uris,
        codes=(MALFORMED,),
        reason="request outside of the repository",
        is_probed=True,
    ),
    wire_case("1,000,000 refs in v0", v0_million, "too_many_refs"),
    wire_case(
        "1,000,000 refs in v2",
        at(
            "refs",
            lambda exchange: exchange.stream(
                chain([ls_refs([("HEAD", ID)])[: -len(FLUSH)]], million_refs(f"{ID} refs/heads/{{number}}")), RESULT
            ),
        ),
        "too_many_refs",
    ),
    wire_case("SHA-256 in v2", sha256_v2(), MALFORMED),
    wire_case(
        "SHA-256 in v0",
        body(
            advertisement(
                [("HEAD", "1" * 64), ("refs/heads/main", "1" * 64)], b"side-band-64k ofs-delta object-format=sha256"
            )
        ),
        MALFORMED,
    ),
    Case(name="HEAD that points out of refs/", answer=lambda _internal: outside_head(), is_probed=True),
    echoed("refs", "ERR", "remote_error"),
    echoed("pack", "sideband 2", MALFORMED),
    echoed("pack", "sideband 3", "remote_error"),
    echoed("advertisement", "401 realm", "remote_protocol_error"),
    echoed("advertisement", "reason phrase", "remote_protocol_error"),
    echoed("pack", "bad chunk", "remote_unreachable"),
)

CASES: Final = (*PACKS, *TREES, *SERVERS)
