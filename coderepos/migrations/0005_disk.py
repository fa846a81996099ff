"""Room on the disks of machines: what is free and used, what jobs reserve and wait for, and when clones were used."""

from __future__ import annotations

from typing import Any

from django.db import migrations, models


def count_clones_as_used(apps: Any, schema_editor: Any) -> None:
    """Take the publication of a clone for its last use, as for those to come."""
    rows = apps.get_model("coderepos", "CodeRepository")._base_manager.using(schema_editor.connection.alias)
    rows.filter(cloned_at__isnull=False).update(last_used_at=models.F("cloned_at"))


class Migration(migrations.Migration):
    dependencies = [("coderepos", "0004_purges")]

    operations = [
        *(
            migrations.AddField(model_name=model, name=name, field=field)
            for model, name, field in (
                ("coderepository", "last_used_at", models.DateTimeField(editable=False, null=True)),
                ("job", "needed_bytes", models.PositiveBigIntegerField(editable=False, null=True)),
                ("job", "reserved_bytes", models.PositiveBigIntegerField(default=0, db_default=0, editable=False)),
                ("job", "waits_for_disk_since", models.DateTimeField(editable=False, null=True)),
                ("node", "claims_paused_until", models.DateTimeField(editable=False, null=True)),
                ("node", "disk_budget_bytes", models.BigIntegerField(editable=False, null=True)),
                ("node", "disk_floor_bytes", models.BigIntegerField(default=0, db_default=0, editable=False)),
                ("node", "disk_free_bytes", models.BigIntegerField(editable=False, null=True)),
                ("node", "disk_lacks_inodes", models.BooleanField(default=False, db_default=False, editable=False)),
                ("node", "disk_measured_at", models.DateTimeField(editable=False, null=True)),
                ("node", "disk_used_bytes", models.BigIntegerField(default=0, db_default=0, editable=False)),
                ("node", "retained_at", models.DateTimeField(editable=False, null=True)),
            )
        ),
        migrations.AddIndex(
            model_name="coderepository",
            index=models.Index(
                condition=models.Q(("clone_status", "COMPLETED")),
                fields=["node", "last_used_at"],
                name="code_repos_node_used",
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                condition=models.Q(("waits_for_disk_since__isnull", False)),
                fields=["waits_for_disk_since", "id"],
                name="code_repo_jobs_disk_wait",
            ),
        ),
        migrations.RunPython(count_clones_as_used, migrations.RunPython.noop, hints={"model_name": "coderepository"}),
    ]
