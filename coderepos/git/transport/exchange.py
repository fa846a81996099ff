"""One exchange with a server: finds the wanted ref and fetches its pack, or explains what is missing."""

from __future__ import annotations

from collections.abc import Callable
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
from coderepos.git.transport.pack_sink import CountedLongEnough, PackSink, StoppedEarly
from coderepos.git.transport.upload_pack import UploadPackClient
from coderepos.git.wire import FetchOutcome, FetchRequest, message_fields


class Exchange:
    """The protocol of one fetch request.

    :param refs: the refs; has those that the server listed in its first response.
    :param sink: takes the pack.
    :param is_harmless: returns whether a name from the server contains no part of the credentials, so may be shown.
    """

    def __init__(
        self,
        request: FetchRequest,
        client: UploadPackClient,
        refs: RefListing,
        sink: PackSink,
        *,
        is_harmless: Callable[[bytes], bool],
    ) -> None:
        self._request = request
        self._client = client
        self._refs = refs
        self._sink = sink
        self._is_harmless = is_harmless
        self._depth = None if request.full_history_fallback and not client.supports_shallow else request.depth

    def run(self) -> dict[str, Any]:
        """Run the protocol to its end, or until a probe has counted enough; return the fields of the outcome.

        :raises GitError: the subclass for what went wrong.
        """
        self._list_refs()
        wanted = self._refs.wanted() or self._default_branch()
        if wanted is None:
            raise self._nothing_found()
        if not (wanted.name or self._refs.has_commit or self._client.serves_unadvertised_commits):
            raise RefNotFound(reason="hidden commit") if any(self._refs.shown.values()) else RepositoryEmpty
        head = self._head_branch(wanted)
        # HEAD may point anywhere, even to refs/replace/. Unless it is a branch, HEAD is detached, as with git clone.
        head_branch = ref_text(head) if head.startswith(HEADS) else ""
        # A branch is a commit. A small pack of anything else is searched for one, by a process that has no token.
        self._sink.keeps_small_pack = not (wanted.name.startswith(HEADS) or (wanted.name == HEAD and head_branch))
        shallow, stopped_early = self._fetch(wanted)
        self._sink.finish()
        pack_bytes = self._sink.pack_bytes
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
        return {**message_fields(outcome), "stopped_early": stopped_early, "is_whole": self._depth is None}

    def _list_refs(self) -> None:
        """List the refs; if all tags are too many, list without them."""
        try:
            self._client.list_refs(self._refs, self._refs.prefixes)
        except (TooManyRefs, PreambleTooLarge) as error:
            if self._request.count_only:
                raise
            self._refs.drop_tags()
            self._sink.allow_preamble_again()
            try:
                self._client.list_refs(self._refs, self._refs.prefixes)
            except (TooManyRefs, PreambleTooLarge):
                raise error from None

    def _default_branch(self) -> WantedRef | None:
        """Return the branch that ``git clone`` would check out if the server does not say where HEAD points."""
        if self._request.ref not in ("", "HEAD") or self._client.reports_unborn_head:
            return None
        try:
            self._client.list_refs(self._refs, [DEFAULT_BRANCH])
        except (TooManyRefs, PreambleTooLarge):
            self._sink.allow_preamble_again()
        return self._refs.default_branch()

    def _head_branch(self, wanted: WantedRef) -> bytes:
        """Return the branch of HEAD; if the server does not name it, the one that ``git clone`` would guess."""
        if self._refs.head_target or (wanted.name != HEAD and self._client.lists_refs_on_request):
            return self._refs.head_target
        try:
            self._client.list_refs(self._refs, [HEADS])
        except (TooManyRefs, PreambleTooLarge):
            self._sink.allow_preamble_again()
        return self._refs.guessed_branch

    def _fetch(self, wanted: WantedRef) -> tuple[frozenset[bytes], bool]:
        """Fetch the pack; return the ids of the shallow commits, and whether a probe stopped early."""
        client, sink = self._client, self._sink
        if self._depth is None:
            sink.size_factor = 1
        with_tags = not self._request.count_only
        # Otherwise a long list of tags, which a probe does not request, would use up the allowance of a clone.
        sink.expect_pack()
        try:
            return client.fetch(wanted.object_id.encode(), sink, depth=self._depth, with_tags=with_tags), False
        except StoppedEarly:
            return frozenset(), True
        except CountedLongEnough:
            return frozenset(), False
        except (RemoteError, RemoteProtocolError) as error:
            is_by_id = client.is_fetching and not wanted.name and not sink.pack_bytes
            if is_by_id and _refuses_object(error, wanted.object_id):
                raise RefNotFound from None
            raise

    def _nothing_found(self) -> RefNotFound | RepositoryEmpty:
        """Return the error for a ref that is not there, with names that the user could give instead."""
        branches, tags, others = shown = self._refs.shown.values()
        try:
            if not branches:
                self._client.list_refs(self._refs, [HEADS, TAGS])
            if not any(shown):
                self._client.list_refs(self._refs, [b"refs/"])
        except (TooManyRefs, PreambleTooLarge):
            pass  # Only the first few names are needed.
        if not (branches or tags or others):
            return RepositoryEmpty()
        if self._request.ref not in ("", "HEAD"):
            return _unknown(self._request.ref)
        if branches:
            return self._not_found("default branch", branches)
        return self._not_found("only tags", tags) if tags else self._not_found("only other refs", others)

    def _not_found(self, reason: str, names: list[bytes]) -> RefNotFound:
        shown = [ref_text(name) for name in names if self._is_harmless(name)]
        kinds = (HEADS.decode(), TAGS.decode())
        short = [name[len(kind) :] for name in shown for kind in kinds if name.startswith(kind)]
        return RefNotFound(reason=reason, names=[name for name in short or shown if name and is_display_text(name)])


def _unknown(ref: str) -> RefNotFound:
    """Return the error for a ref that the user gave and the repository does not have."""
    if not ref_candidates(ref):
        return RefNotFound(reason="no ref name")
    return RefNotFound(reason="short id") if is_short_id(ref) else RefNotFound()


def _refuses_object(error: RemoteError | RemoteProtocolError, object_id: str) -> bool:
    """Return whether the server refuses this object: with a message about it, or by ending the response."""
    text = str(error.fields.get("remote_text", ""))
    return isinstance(error, RemoteProtocolError) or object_id in text or "not our ref" in text
