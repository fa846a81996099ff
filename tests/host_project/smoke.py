"""Uses the installed app the way the host's users would; any surprise ends it with an exit status."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
django.setup()

from django.contrib.auth.models import User  # noqa: E402
from django.db import connection  # noqa: E402
from django.test import Client  # noqa: E402
from shop.models import Project  # noqa: E402

import coderepos  # noqa: E402
from coderepos.models import CodeRepository, ProjectMembership  # noqa: E402

installed = Path(coderepos.__file__).parent
assert installed.parent == Path(sysconfig.get_path("purelib")), f"not the installed copy: {installed}"
assert (installed / "py.typed").exists()

with connection.cursor() as cursor:
    columns = {column.name: column for column in connection.introspection.get_table_description(cursor, "code_repos")}
    tables = connection.introspection.table_names(cursor)
assert columns["project_id"].type_code == "bigint", columns["project_id"]
assert "projects" not in tables, "the table of coderepos.projects was made although it is not installed"

project = Project.objects.create(title="Ours")
member = User.objects.create_user("member")
ProjectMembership.objects.create(project=project, user=member, role="viewer")
CodeRepository.objects.create(
    project=project, git_url="https://git.example.org/a/b.git", url_key="https://git.example.org/a/b"
)
stranger = User.objects.create_user("stranger")

anonymous = Client().get(f"/code/projects/{project.pk}/repos")
assert anonymous.status_code in {401, 403}, anonymous.content
assert anonymous.json()["detail"]["error"] == "not_authenticated", anonymous.content

client = Client()
client.force_login(member)
listed = client.get(f"/code/projects/{project.pk}/repos")
assert listed.status_code == 200, listed.content
(entry,) = listed.json()["results"]
assert entry["git_url"] == "https://git.example.org/a/b.git", entry
assert entry["created_at"].endswith("Z"), entry

client.force_login(stranger)
foreign = client.get(f"/code/projects/{project.pk}/repos")
assert foreign.status_code == 404, foreign.content

print(f"coderepos {coderepos.__version__} works on Django {django.get_version()} in a third-party project")
