"""Repositories belong to a model of the host, whose own migrations never learn of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.core.checks import CheckMessage
from django.db import connection, models
from django.test.utils import isolate_apps
from pytest_django import Settings

from coderepos.checks import project as checks
from tests.support.host_project import MOUNTED, HostProject, Refused

KEYS = {
    "bigint": "id = models.BigAutoField(primary_key=True)",
    "uuid": "id = models.UUIDField(primary_key=True, default=uuid.uuid4)",
    "text": "id = models.CharField(primary_key=True, max_length=20, default='ours')",
}
STORE = """
    from coderepos.models import CodeRepository, get_project_model
    project = get_project_model().objects.create()
    url = "https://git.example.org/a/b"
    CodeRepository.objects.create(project=project, git_url=url, url_key=url, token_ciphertext="t")
    print("stored")
"""


@pytest.fixture
def host(tmp_path: Path) -> HostProject:
    """An empty project that mounts the app, and does not say yet what repositories belong to."""
    host = HostProject(tmp_path)
    host.configure(MOUNTED)
    return host


def ids(messages: list[CheckMessage]) -> list[str]:
    """Return the ids of messages, and make sure that each says what to do."""
    assert all(message.hint for message in messages)
    return [str(message.id).removeprefix("coderepos.") for message in messages]


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_migrations_of_the_host_do_not_know_us(host: HostProject, key: str) -> None:
    """A host's foreign key to its own project model names that model, and stays when the app goes."""
    host.add_app(
        "shop",
        f"""
        class Project(models.Model):
            {key}
        class Task(models.Model):
            project = models.ForeignKey(Project, models.CASCADE)
        """,
    )
    host.configure('CODEREPOS_PROJECT_MODEL = "shop.Project"\n')
    host.manage("makemigrations", "shop")
    migration = (host.folder / "shop/migrations/0001_initial.py").read_text()

    assert "to='shop.project'" in migration
    assert "coderepos" not in migration.lower()

    host.manage("makemigrations", "--check", "--dry-run")
    host.manage("migrate")
    host.manage("check", "--database", "default")
    assert "stored" in host.python(STORE)

    host.manage("migrate", "coderepos", "zero")
    host.configure('INSTALLED_APPS.remove("coderepos")\ndel CODEREPOS, CODEREPOS_PROJECT_MODEL\n')
    host.manage("makemigrations", "--check", "--dry-run")
    host.manage("migrate")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("app", "wrap"),
    [
        ("basics", "{}"),
        ("shop", "{}"),
        ("shop", "migrations.SeparateDatabaseAndState(state_operations=[{}])"),
        ("shop", "renamed"),
    ],
)
def test_project_model_of_a_later_migration(host: HostProject, app: str, wrap: str) -> None:
    """An empty database gets our tables after that of the project model, whichever migration makes or renames it."""
    fields = "[('id', models.BigAutoField(primary_key=True, serialize=False))]"
    create = f"migrations.CreateModel('Project', {fields}, options={{'db_table': 'work'}})"
    if wrap == "renamed":
        operations = [create.replace("Project", "Workspace"), "migrations.RenameModel('Workspace', 'Project')"]
    else:
        table = ["migrations.RunSQL('CREATE TABLE work (id bigint PRIMARY KEY)')"]
        operations = [*(table if "Separate" in wrap else []), wrap.format(create)]
    host.add_app(
        app,
        """
        class Project(models.Model):
            id = models.BigAutoField(primary_key=True)
            class Meta:
                db_table = "work"
        """,
    )
    for number, operation in enumerate(["migrations.RunSQL('SELECT 1')", *operations], start=1):
        before = f"[({app!r}, '{number - 1:04}_step')]" if number > 1 else "[]"
        host.add(
            f"{app}/migrations/{number:04}_step.py",
            f"""\
            from django.db import migrations, models
            class Migration(migrations.Migration):
                dependencies = {before}
                operations = [{operation}]
            """,
        )
    host.configure(f'CODEREPOS_PROJECT_MODEL = "{app}.Project"\n')

    host.manage("makemigrations", "--check", "--dry-run")
    host.manage("migrate")
    assert "stored" in host.python(STORE.replace("objects.create()", "objects.create(id=1)"))


@pytest.mark.slow
def test_app_without_migrations(host: HostProject) -> None:
    """A project model whose app has no migrations is made before them."""
    host.add("shop/__init__.py", "")
    host.add("shop/models.py", "from django.db import models\nclass Project(models.Model):\n    pass\n")
    host.configure('INSTALLED_APPS += ["shop"]\nCODEREPOS_PROJECT_MODEL = "shop.Project"\n')

    host.manage("migrate", "--run-syncdb")
    assert "stored" in host.python(STORE)


@pytest.mark.slow
def test_model_named_after_the_tables_were_made(host: HostProject) -> None:
    """It is an error of ``check --database`` and of ``migrate``, and its way out works."""
    host.configure('INSTALLED_APPS += ["coderepos.projects"]\n')
    host.manage("migrate")
    host.add_app("shop", "class Project(models.Model):\n    pass\n")
    host.manage("makemigrations", "shop")
    host.configure('CODEREPOS_PROJECT_MODEL = "shop.Project"\n')

    host.manage("check")
    for command in (("check", "--database", "default"), ("migrate",)):
        with pytest.raises(Refused, match=r"coderepos\.E013") as refused:
            host.manage(*command)
        assert "set it back to coderepos_projects.Project" in str(refused.value)

    host.configure('CODEREPOS_PROJECT_MODEL = "coderepos_projects.Project"\n')
    host.manage("migrate", "coderepos", "zero")
    host.configure('CODEREPOS_PROJECT_MODEL = "shop.Project"\n')
    host.manage("migrate")
    host.manage("check", "--database", "default")
    assert "stored" in host.python(STORE)


@pytest.mark.slow
def test_model_renamed_after_the_tables_were_made(host: HostProject) -> None:
    """The check says in which order to do it, and no repository is lost on that way."""
    host.add_app("shop", "class Project(models.Model):\n    pass\n")
    host.configure('CODEREPOS_PROJECT_MODEL = "shop.Project"\n')
    host.manage("makemigrations", "shop")
    host.manage("migrate")
    assert "stored" in host.python(STORE)
    models_file = host.folder / "shop/models.py"
    models_file.write_text(models_file.read_text().replace("Project", "Venture"))
    host.add(
        "shop/migrations/0002_rename.py",
        """
        from django.db import migrations
        class Migration(migrations.Migration):
            dependencies = [("shop", "0001_initial")]
            operations = [migrations.RenameModel("Project", "Venture")]
        """,
    )
    host.configure('CODEREPOS_PROJECT_MODEL = "shop.Venture"\n')

    with pytest.raises(Refused, match=r"coderepos\.E013") as refused:
        host.manage("migrate")
    assert "back to shop.Project, run `migrate shop --skip-checks`, and set it to shop.Venture" in str(refused.value)

    host.configure('CODEREPOS_PROJECT_MODEL = "shop.Project"\n')
    host.manage("migrate", "shop", "--skip-checks")
    host.configure('CODEREPOS_PROJECT_MODEL = "shop.Venture"\n')
    host.manage("makemigrations", "--check", "--dry-run")
    host.manage("migrate")
    host.manage("check", "--database", "default")
    found = host.python("from coderepos.models import CodeRepository\nprint(CodeRepository.objects.get().project)")
    assert found == "Venture object (1)\n"


@pytest.mark.slow
def test_no_project_model(host: HostProject) -> None:
    """Who names no model is told both ways, and which model is probably meant; a key can be made all the same."""
    host.add_app("shop", "class Project(models.Model):\n    pass\n")

    assert host.manage("coderepos_generate_key").strip()
    for command in ("check", "migrate", "makemigrations"):
        with pytest.raises(Refused, match=r"coderepos\.E007") as refused:
            host.manage(command)
        assert "coderepos.projects" in str(refused.value)
        assert "shop.Project" in str(refused.value)


@pytest.mark.parametrize(
    "label", ["shop.Project", "shop", "apps.shop.Project", "", 7, "auth.group.", "self", "self.self"]
)
def test_label_that_names_no_model(settings: Settings, label: object) -> None:
    """Whatever it is, it is a message and no exception."""
    settings.CODEREPOS_PROJECT_MODEL = label

    assert ids(checks.check_project_model()) == ["E007"]
    assert checks.check_project_tables(databases=["default"]) == []


def test_label_of_a_model(settings: Settings) -> None:
    """Case does not matter, as everywhere in Django."""
    settings.CODEREPOS_PROJECT_MODEL = "auth.group"

    assert checks.check_project_model() == []


@pytest.mark.django_db
def test_tables_belong_to_another_model(settings: Settings) -> None:
    """The foreign keys in the database are compared, and only where Django was asked to look at it."""
    assert checks.check_project_tables(databases=["default"]) == []

    settings.CODEREPOS_PROJECT_MODEL = "auth.Group"
    assert checks.check_project_tables() == []
    (message,) = checks.check_project_tables(databases=["default"])

    assert message.id == "coderepos.E013"
    assert "projects" in message.msg
    assert "coderepos_projects.Project" in str(message.hint)


@pytest.mark.django_db
def test_tables_that_are_not_there_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first ``migrate`` there is nothing to compare."""
    monkeypatch.setattr(connection.introspection, "get_relations", lambda *_: {})

    assert checks.check_project_tables(databases=["default"]) == []


@pytest.mark.parametrize(
    ("key", "found"),
    [
        (models.FloatField, ["E012"]),
        (models.DateTimeField, ["E012"]),
        (models.SlugField, []),
        (models.BigAutoField, []),
        (models.UUIDField, []),
    ],
)
def test_keys_that_name_no_folder(
    monkeypatch: pytest.MonkeyPatch, key: type[models.Field[Any, Any]], found: list[str]
) -> None:
    """A float or a time as the key of a project is an error; the key of a parent counts for its children."""
    with isolate_apps("tests.hosts"):
        meta = type("Meta", (), {"app_label": "hosts"})
        values = {"__module__": __name__, "Meta": meta}
        parent = type("Parent", (models.Model,), {**values, "id": key(primary_key=True)})
        child = type("Child", (parent,), values)
        for model in (parent, child):
            monkeypatch.setattr(checks, "_project_model", lambda model=model: model)
            assert ids(checks.check_project_model()) == found
