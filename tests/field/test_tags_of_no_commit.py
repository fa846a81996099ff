"""A tag that names no commit cannot be cloned, and the connect call says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import packs
from tests.support.packs import FILE, Line, Object, blob
from tests.support.reference_git import repository_of
from tests.support.servers.git_http_backend import GitServer
from tests.support.site import Site

pytestmark = pytest.mark.of_any_database

ROOT = packs.tree(Line(FILE, b"file", blob().id))
HEAD = packs.commit(ROOT)
NEXT = packs.commit(ROOT, HEAD.id)
NO_COMMIT = {
    "blob": blob(),
    "tree": ROOT,
    "tag-of-blob": packs.tag(blob()),
    "tag-of-tree": packs.tag(ROOT),
    "nested": packs.tag(packs.tag(blob(), b"inner")),
}
A_COMMIT = {
    "light": HEAD,
    "annotated": packs.tag(HEAD),
    "nested-commit": packs.tag(packs.tag(NEXT, b"inner")),
    "empty": packs.tag(packs.commit(packs.tree())),
}
OBJECTS: list[Object] = [blob(), ROOT, HEAD, NEXT, packs.tree(), packs.commit(packs.tree())]
OBJECTS += [packs.tag(blob(), b"inner"), packs.tag(NEXT, b"inner"), *NO_COMMIT.values(), *A_COMMIT.values()]


@pytest.mark.parametrize("protocol_v2", [True, False])
@pytest.mark.parametrize("depth", [None, 1])
def test_a_probe_promises_what_the_clone_keeps(
    site: Site, tmp_path: Path, protocol_v2: bool, depth: int | None
) -> None:
    """https://github.com/jupyterlab/jupyterlab/issues/14342: tags name anything; a branch is cloned all the same."""
    refs = {f"refs/tags/{name}": one.id for name, one in {**NO_COMMIT, **A_COMMIT}.items()}
    repository_of(tmp_path / "served/tags.git", OBJECTS, {**refs, "refs/heads/main": NEXT.id})
    with GitServer(tmp_path / "served", protocol_v2=protocol_v2) as host:
        site.trust(host)
        for name in NO_COMMIT:
            answer = site.connect(host.url("tags.git"), ref=name, depth=depth)
            assert (answer.status_code, answer.json()["detail"]["error"]) == (422, "ref_not_found"), name
            assert answer.json()["detail"]["message"].startswith("What the ref names is not a commit")
        for name in ("", *A_COMMIT):
            repo_id = site.connected(host.url("tags.git"), ref=name, depth=depth)
            assert site.work(repo_id) == "succeeded", name
