"""Writes what makes a version of a pack: its refs beside the pack, and the working tree of its commit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from coderepos.exceptions import UnsafeRepository
from coderepos.git.pack.bare_repository import BareRepository
from coderepos.git.pack.delta_tree import DeltaTree
from coderepos.git.pack.pack_file import COMMIT, Pack
from coderepos.git.pack.peeling import Peeler, commit_and_tree
from coderepos.git.pack.published_refs import PublishedRefs, published_refs
from coderepos.git.substitutions import Substitutions
from coderepos.git.wire import BuildRequest, FetchOutcome
from coderepos.git.worktree.checkout import Checkout
from coderepos.git.worktree.tree_totals import TreeTotals
from coderepos.git.worktree.trees import read_trees

TREE_NAME: Final = b"tree"


@dataclass(frozen=True, kw_only=True, slots=True)
class Objects:
    """The objects of a pack."""

    pack: Pack
    by_id: Mapping[bytes, int]
    """Positions of all of them."""

    delta_tree: DeltaTree


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """What was written."""

    refs: PublishedRefs
    shallow: tuple[str, ...]
    """Ids of the commits whose parents are missing."""

    git_bytes: int
    total: TreeTotals
    substitutions: Substitutions


def write_version(
    request: BuildRequest,
    git: BareRepository,
    incoming: int,
    objects: Objects,
    outcome: FetchOutcome,
    *,
    pack_bytes: int,
) -> Version:
    """Write refs and working tree.

    :param incoming: descriptor of the directory that the tree is created in.
    :param pack_bytes: size of pack and index, which count against the limit of bytes on disk too.
    :raises GitError: the subclass for what is wrong with the objects.
    :raises OSError: the disk is full or fails.
    """
    pack, by_id, delta_tree = objects.pack, objects.by_id, objects.delta_tree
    peeler, substitutions = Peeler(pack, by_id, delta_tree), Substitutions()
    commit_id, tree_id = commit_and_tree(bytes.fromhex(outcome.wanted_id), pack, by_id, delta_tree, peeler)
    refs = published_refs(outcome, commit_id.hex(), pack, by_id, peeler, substitutions)
    shallow = tuple(one for one in outcome.shallow if _is_in(pack, bytes.fromhex(one), by_id))
    git_bytes = pack_bytes + git.add_refs(refs, shallow)
    trees = read_trees(tree_id, pack, by_id, delta_tree, request.limits, other_bytes=git_bytes)
    if trees.lacks_empty_tree:
        git_bytes += git.add_empty_tree()
    checkout = Checkout(incoming, TREE_NAME, trees, pack, substitutions, group_readable=request.group_readable)
    checkout.write(delta_tree)
    return Version(refs=refs, shallow=shallow, git_bytes=git_bytes, total=trees.total, substitutions=substitutions)


def _is_in(pack: Pack, commit_id: bytes, by_id: Mapping[bytes, int]) -> bool:
    """Return whether a shallow commit is in the pack; Git ignores those that are not.

    :raises UnsafeRepository: the object is in the pack, but is not a commit.
    """
    position = by_id.get(commit_id)
    if position is not None and pack.kinds[position] != COMMIT:
        raise UnsafeRepository(reason="history ends at no commit")
    return position is not None
