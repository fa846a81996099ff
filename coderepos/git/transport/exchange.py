"""One conversation with a server: find the wanted ref, fetch its pack, and say what is missing where something is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from coderepos.exceptions import (
    PreambleTooLarge,
    RefNotFound,
    RemoteError,
    RemoteProtocolError,
    RepositoryEmpty,
    TooManyRefs,
)
from coderepos.git.refs import (
    DEFAULT_BRANCH,
    HEAD,
    HEADS,
    TAGS,
    RefListing,
    WantedRef,
    advertised_tags,
    is_short_id,
    object_id,
    ref_candidates,
    ref_text,
)
from coderepos.git.text import is_display_text
from coderepos.git.transport.pack_sink import CountedLongEnough, PackWriter, StoppedEarly
from coderepos.git.transport.upload_pack import UploadPackClient
from coderepos.git.wire import FetchOutcome, FetchRequest


class Exchange:
    """The conversation of one request.

    :param refs: has what came along with the first answer of the server.
    :param is_harmless: returns whether a name of the server has no part of the credentials, so that users may see it.
    """

    def __init__(
        self,
        request: FetchRequest,
        client: UploadPackClient,
        refs: RefListing,
        writer: PackWriter,
        *,
        is_harmless: Callable[[bytes], bool],
    ) -> None:
        self._request = request
        self._client = client
        self._refs = refs
        self._writer = writer
        self._is_harmless = is_harmless
        self._depth = None if request.whole_without_depth and not client.knows_depth else request.depth

    def outcome(self) -> dict[str, Any]:
        """Run the protocol to its end, or until a probe has counted enough; return the fields of the outcome.

        :raises GitError: a subclass that says what went wrong.
        """
        self._list()
        wanted = self._refs.wanted() or self._default_branch()
        if wanted is None:
            raise self._nothing_found()
        if not (wanted.name or self._refs.has_commit or self._client.gives_hidden_commits):
            raise RefNotFound(reason="hidden commit") if any(self._refs.shown.values()) else RepositoryEmpty
        head = self._head_branch(wanted)
        # HEAD may point anywhere, to refs/replace/ too: what is no branch leaves it detached, as with git clone.
        head_branch = ref_text(head) if head.startswith(HEADS) else ""
        # A branch is a commit; of anything else a probe's parent lets a process without the token look for one.
        self._writer.keeps_small_pack = not (wanted.name.startswith(HEADS) or (wanted.name == HEAD and head_branch))
        shallow, stopped_early = self._fetch(wanted)
        self._writer.finish()
        pack_bytes = self._writer.pack_bytes
        tags = advertised_tags(self._refs.tags)
        outcome = FetchOutcome(
            wanted_id=wanted.object_id,
            ref_name=head_branch if wanted.name == HEAD else ref_text(wanted.name),
            head_branch=head_branch,
            tags=tags,
            skipped_tags=self._refs.skipped_tags + len(self._refs.tags) - len(tags),
            shallow=tuple(sorted(object_id(one) for one in shallow)),
            pack_bytes=min(pack_bytes, self._request.limits.wire_bytes) if stopped_early else pack_bytes,
        )
        return {**asdict(outcome), "stopped_early": stopped_early, "is_whole": self._depth is None}

    def _list(self) -> None:
        """Ask for the refs; where the tags make the list too long, for what a probe asks for."""
        try:
            self._client.list_refs(self._refs, self._refs.prefixes)
        except (TooManyRefs, PreambleTooLarge) as error:
            if self._request.count_only:
                raise
            self._refs.without_tags()
            self._writer.allow_preamble_again()
            try:
                self._client.list_refs(self._refs, self._refs.prefixes)
            except (TooManyRefs, PreambleTooLarge):
                raise error from None

    def _default_branch(self) -> WantedRef | None:
        """Return what ``git clone`` takes where the default branch is wanted, and the server cannot say where it is."""
        if self._request.ref not in ("", "HEAD") or self._client.tells_unborn_head:
            return None
        try:
            self._client.list_refs(self._refs, [DEFAULT_BRANCH])
        except (TooManyRefs, PreambleTooLarge):
            self._writer.allow_preamble_again()
        return self._refs.default_branch()

    def _head_branch(self, wanted: WantedRef) -> bytes:
        """Return the branch of HEAD; where none is told, the one that ``git clone`` would guess."""
        if self._refs.head_target or (wanted.name != HEAD and self._client.lists_on_request):
            return self._refs.head_target
        try:
            self._client.list_refs(self._refs, [HEADS])
        except (TooManyRefs, PreambleTooLarge):
            self._writer.allow_preamble_again()
        return self._refs.guessed_branch

    def _fetch(self, wanted: WantedRef) -> tuple[frozenset[bytes], bool]:
        """Fetch the pack; return the ids of the commits that history ends at, and whether a probe stopped it."""
        client, writer = self._client, self._writer
        if self._depth is None:
            writer.size_factor = 1
        with_tags = not self._request.count_only
        # Or a long list of tags, which a probe does not ask for, would leave too little.
        writer.allow_preamble_again()
        try:
            return client.fetch(wanted.object_id.encode(), writer, depth=self._depth, with_tags=with_tags), False
        except StoppedEarly:
            return frozenset(), True
        except CountedLongEnough:
            return frozenset(), False
        except (RemoteError, RemoteProtocolError) as error:
            is_by_id = client.is_fetching and not wanted.name and not writer.pack_bytes
            if is_by_id and _refuses_id(error, wanted.object_id):
                raise RefNotFound from None
            raise

    def _nothing_found(self) -> RefNotFound | RepositoryEmpty:
        """Return the error for a ref that is not there, with what the user could give instead."""
        branches, tags, others = shown = self._refs.shown.values()
        try:
            if not branches:
                self._client.list_refs(self._refs, [HEADS, TAGS])
            if not any(shown):
                self._client.list_refs(self._refs, [b"refs/"])
        except (TooManyRefs, PreambleTooLarge):
            pass  # The first names are all that is needed.
        if not (branches or tags or others):
            return RepositoryEmpty()
        if self._request.ref not in ("", "HEAD"):
            return _unknown(self._request.ref)
        if branches:
            return self._told("default branch", branches)
        return self._told("only tags", tags) if tags else self._told("only other refs", others)

    def _told(self, reason: str, names: list[bytes]) -> RefNotFound:
        shown = [ref_text(name) for name in names if self._is_harmless(name)]
        kinds = (HEADS.decode(), TAGS.decode())
        short = [name[len(kind) :] for name in shown for kind in kinds if name.startswith(kind)]
        return RefNotFound(reason=reason, names=[name for name in short or shown if name and is_display_text(name)])


def _unknown(ref: str) -> RefNotFound:
    """Return the error for a ref that the user gave and the repository does not have."""
    if not ref_candidates(ref):
        return RefNotFound(reason="no ref name")
    return RefNotFound(reason="short id") if is_short_id(ref) else RefNotFound()


def _refuses_id(error: RemoteError | RemoteProtocolError, object_id: str) -> bool:
    """Return whether a server says, with a text or with nothing, that it lacks this object or does not give it away."""
    text = str(error.fields.get("remote_text", ""))
    return isinstance(error, RemoteProtocolError) or object_id in text or "not our ref" in text
