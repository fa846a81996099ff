"""Where the disks of sandbox roots are mounted."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("coderepos", "0001_initial")]

    operations = [
        migrations.AddField(
            model_name="node", name="mount_points", field=models.JSONField(default=dict, editable=False)
        ),
    ]
