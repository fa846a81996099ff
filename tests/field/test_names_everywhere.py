"""Names that are no text, or text that does harm, from the Git host to every answer of the API and every page."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from django.test import Client
from django.urls import reverse

from coderepos.git.text import is_display_text
from coderepos.models import CodeRepository, ProjectMembership, Role
from tests.support import packs
from tests.support.git import git_run
from tests.support.packs import FILE, FOLDER, LINK, Line, blob
from tests.support.reference_git import repository_of
from tests.support.servers.git_http_backend import GitServer
from tests.support.site import ADDRESS, Site

NAMES = {
    "latin-1": b"caf\xe9",
    "direction": "main\u202egnp.exe".encode(),
    "C1": "c1\u0085\u009b31m".encode(),
    "zero width": "ma\u200bin".encode(),
    "UTF-8": "büro/日本".encode(),
}


def source(folder: Path, name: bytes) -> tuple[Path, str]:
    """Make a bare repository whose default branch, tags and files have this name; return it and the commit's id."""
    target = blob(b"/etc/" + name)
    inner = packs.tree(Line(FILE, name.replace(b"/", b"-"), blob().id), Line(FILE, name[:1] + b"\x1b\n", blob().id))
    root = packs.tree(Line(FOLDER, name.replace(b"/", b"-"), inner.id), Line(LINK, b"-" + name[:4], target.id))
    head = packs.commit(root)
    tag = packs.tag(head, name)
    bare = repository_of(folder, [blob(), target, inner, root, head, tag], {})
    refs = {b"refs/heads/": head, b"refs/tags/annotated-": tag, b"refs/tags/light/": head}
    lines = [one.id.encode() + b" " + prefix + name + b"\n" for prefix, one in refs.items()]
    (bare / "packed-refs").write_bytes(b"# pack-refs with: sorted \n" + b"".join(lines))
    (bare / "HEAD").write_bytes(b"ref: refs/heads/" + name + b"\n")
    return bare, head.id


@pytest.mark.parametrize("protocol_v2", [True, False])
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_every_answer_is_printable_and_the_sandbox_has_the_bytes(
    site: Site, tmp_path: Path, name: bytes, protocol_v2: bool, admin_client: Client
) -> None:
    """https://github.com/gitpython-developers/GitPython/issues/2064: one such tag made every listing fail."""
    _, commit_id = source(tmp_path / "served/odd.git", name)
    with GitServer(tmp_path / "served", protocol_v2=protocol_v2) as host:
        site.trust(host)
        repo_id = site.connected(host.url("odd.git"))
        assert site.work(repo_id) == "succeeded"
    ProjectMembership.objects.update(role=Role.MAINTAINER)

    assert site.status(repo_id)["clone_status"] == "COMPLETED"
    for path in (
        "/repos",
        f"/repos/{repo_id}",
        f"/repos/{repo_id}/status",
        f"/repos/{repo_id}/jobs",
        f"/repos/{repo_id}/audit",
    ):
        answer = site.client.get(ADDRESS + path)
        assert answer.status_code == 200
        assert is_display_text(answer.content.decode())
        assert all(is_display_text(text) for text in texts(answer.json()))
    for page, key in (("coderepository", repo_id), ("job", site.job(repo_id).pk)):
        for address in (
            reverse(f"admin:coderepos_{page}_changelist"),
            reverse(f"admin:coderepos_{page}_change", args=[key]),
        ):
            shown = admin_client.get(address)
            assert shown.status_code == 200
            assert not [char for char in "\u202e\u0085\u009b\u200b\x1b" if char in shown.content.decode()]

    details = site.client.get(f"{ADDRESS}/repos/{repo_id}").json()
    assert details["substitutions"] == {"name": 1, "symlink": 1}
    if name == NAMES["latin-1"]:
        assert details["ref_name"] == "refs/heads/caf\\xe9"
        assert sorted(details["substituted_paths"]) == ["name: caf\\xe9/c\\x1b\\x0a", "symlink: -caf\\xe9"]
    sandbox = Path(details["sandbox_path"])
    assert name.replace(b"/", b"-") in os.listdir(os.fsencode(sandbox))
    at = f"--git-dir={sandbox.parent / 'git'}"
    assert git_run(at, "fsck", "--full").stderr == b""
    for ref in (name, b"refs/heads/" + name, b"annotated-" + name, b"light/" + name, b"HEAD"):
        logged = git_run(at, "log", "--format=%H", ref, "--")
        assert (logged.returncode, logged.stdout.split()) == (0, [commit_id.encode()]), logged.stderr
    assert git_run(at, "symbolic-ref", "HEAD").stdout == b"refs/heads/" + name + b"\n"


def texts(value: object) -> list[str]:
    """Return every text of a JSON value."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for pair in value.items() for item in pair for text in texts(item)]
    return [text for item in value for text in texts(item)] if isinstance(value, list) else []


def test_a_branch_with_such_a_name_can_be_asked_for(site: Site, tmp_path: Path) -> None:
    """What the user types is the name in UTF-8, whatever its characters are."""
    name = "büro/日本"
    _, commit_id = source(tmp_path / "served/odd.git", name.encode())
    with GitServer(tmp_path / "served") as host:
        site.trust(host)
        repo_id = site.connected(host.url("odd.git"), ref=name)
        assert site.work(repo_id) == "succeeded"
    details = site.client.get(f"{ADDRESS}/repos/{repo_id}").json()
    assert (details["ref"], details["ref_name"], details["commit_id"]) == (name, f"refs/heads/{name}", commit_id)


def test_a_ref_that_turns_the_page_is_shown_escaped(site: Site, tmp_path: Path, admin_client: Client) -> None:
    """A user may ask for such a branch; operators and the audit trail see what it is."""
    name = "main\u202egnp.exe"
    source(tmp_path / "served/odd.git", name.encode())
    with GitServer(tmp_path / "served") as host:
        site.trust(host)
        repo_id = site.connected(host.url("odd.git"), ref=name)
        assert site.work(repo_id) == "succeeded"
    ProjectMembership.objects.update(role=Role.MAINTAINER)
    entries = site.client.get(f"{ADDRESS}/repos/{repo_id}/audit").json()["results"]
    assert entries[-1]["details"]["ref"] == "main\\u202egnp.exe"
    for page in ("coderepository", "job", "auditentry"):
        shown = admin_client.get(reverse(f"admin:coderepos_{page}_changelist")).content.decode()
        assert "\u202e" not in shown
        assert "main\\u202egnp.exe" in shown or "main\\\\u202egnp.exe" in shown
    shown = admin_client.get(reverse("admin:coderepos_coderepository_change", args=[repo_id])).content.decode()
    assert "main\\u202egnp.exe" in shown
    assert "\u202e" not in shown


@pytest.mark.parametrize("target", ["refs/replace/{id}", "refs/notes/commits", "refs/tags/v1", "refs/stash"])
@pytest.mark.parametrize("protocol_v2", [True, False])
def test_a_head_that_points_to_no_branch_is_detached(
    site: Site, tmp_path: Path, target: str, protocol_v2: bool
) -> None:
    """https://git-scm.com/docs/git-replace: whoever read that sandbox would have seen another history."""
    lie = packs.commit(packs.tree(Line(FILE, b"lie", blob().id)))
    truth = packs.commit(packs.tree(Line(FILE, b"truth", blob().id)), lie.id)
    name = target.format(id=lie.id)
    objects = [blob(), lie, truth, *(packs.tree(Line(FILE, one, blob().id)) for one in (b"lie", b"truth"))]
    bare = repository_of(tmp_path / "served/odd.git", objects, {name: truth.id, "refs/heads/other": lie.id})
    (bare / "HEAD").write_text(f"ref: {name}\n")
    with GitServer(tmp_path / "served", protocol_v2=protocol_v2) as host:
        site.trust(host)
        repo_id = site.connected(host.url("odd.git"))
        assert site.work(repo_id) == "succeeded"
        explicit = site.connected(host.url("odd.git"), ref=name)
        assert site.work(explicit) == "succeeded"
    for one in (repo_id, explicit):
        repository = CodeRepository.objects.get(pk=one)
        assert repository.commit_id == truth.id
        git_dir = Path(str(repository.sandbox_path)).parent / "git"
        assert (git_dir / "HEAD").read_text() == f"{truth.id}\n"
        found = git_run(f"--git-dir={git_dir}", "for-each-ref", "--format=%(refname)").stdout.decode().split()
        assert found == ([name] if name.startswith("refs/tags/") else [])
        log = git_run(f"--git-dir={git_dir}", "log", "--format=%H").stdout.decode().split()
        assert log == [truth.id, lie.id]
