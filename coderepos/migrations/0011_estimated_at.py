"""Quotas know which estimates are of a clone that is still to come."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("coderepos", "0010_surplus_bytes")]

    operations = [
        migrations.AddField(
            model_name="coderepository",
            name="estimated_at",
            field=models.DateTimeField(editable=False, null=True),
        ),
    ]
