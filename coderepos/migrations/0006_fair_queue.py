"""Flows, which make the order of jobs fair, and slots of probes."""

from __future__ import annotations

from typing import Any

from django.db import migrations, models
from django.db.models.functions import Coalesce


def give_jobs_the_turn_of_their_project(apps: Any, schema_editor: Any) -> None:
    """Let jobs that wait take turns as new ones do."""
    jobs = apps.get_model("coderepos", "Job")._base_manager.using(schema_editor.connection.alias)
    waiting = jobs.filter(state__in=["QUEUED", "RUNNING"], flow="")
    for project_id in list(waiting.order_by().values_list("repository__project_id", flat=True).distinct()):
        waiting.filter(repository__project_id=project_id).update(flow=str(project_id))


class Migration(migrations.Migration):
    dependencies = [
        ("coderepos", "0005_disk"),
    ]

    operations = [
        migrations.CreateModel(
            name="Flow",
            fields=[
                ("key", models.TextField(primary_key=True, serialize=False)),
                ("virtual_time", models.FloatField(default=0)),
                ("weight", models.FloatField(default=1)),
                ("slots", models.PositiveIntegerField(null=True)),
                ("ready_at", models.DateTimeField(null=True)),
                ("active", models.BooleanField(default=False)),
            ],
            options={
                "db_table": "code_repo_flows",
                "base_manager_name": "objects",
            },
        ),
        migrations.CreateModel(
            name="ProbeSlot",
            fields=[
                ("number", models.PositiveIntegerField(primary_key=True, serialize=False)),
                ("token", models.UUIDField(null=True)),
                ("project", models.TextField(default="")),
                ("user", models.TextField(default="")),
                ("until", models.DateTimeField(null=True)),
            ],
            options={
                "db_table": "code_repo_probe_slots",
                "base_manager_name": "objects",
            },
        ),
        migrations.AddField(
            model_name="job",
            name="flow",
            field=models.TextField(db_default="", default=""),
        ),
        migrations.AddField(
            model_name="job",
            name="slow_attempts",
            field=models.PositiveSmallIntegerField(db_default=0, default=0),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                models.F("flow"),
                Coalesce("next_attempt_at", "created_at"),
                models.F("id"),
                condition=models.Q(("state", "QUEUED")),
                name="code_repo_jobs_turn",
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                condition=models.Q(("state", "RUNNING")), fields=["flow"], name="code_repo_jobs_running"
            ),
        ),
        migrations.AddIndex(
            model_name="flow",
            index=models.Index(
                condition=models.Q(("active", True)),
                fields=["virtual_time", "ready_at", "key"],
                name="code_repo_flows_turn",
            ),
        ),
        migrations.AddIndex(
            model_name="flow",
            index=models.Index(fields=["virtual_time"], name="code_repo_flows_latest"),
        ),
        migrations.AddIndex(
            model_name="flow",
            index=models.Index(
                condition=models.Q(("active", False), ("ready_at__isnull", False)),
                fields=["ready_at"],
                name="code_repo_flows_wake",
            ),
        ),
        migrations.RunPython(
            give_jobs_the_turn_of_their_project, migrations.RunPython.noop, hints={"model_name": "job"}
        ),
    ]
