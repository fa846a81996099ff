"""A process that reads or writes tokens until its standard input ends: ``python -m … read 0``.

Each row's ``ref`` is the text of its token, written in the same save, so that every reader can verify what it opens.
"""

from __future__ import annotations

import json
import random
import select
import sys

import django

django.setup()

from coderepos.models import CodeRepository  # noqa: E402  models need the setup

PAUSE_SECONDS = 0.01


def main(kind: str, number: int) -> dict[str, int]:
    """Work until standard input ends, and return what was counted."""
    rng = random.Random(number)
    pks = list(CodeRepository.objects.order_by("pk").values_list("pk", flat=True))
    done = wrong = 0
    while not select.select([sys.stdin], [], [], PAUSE_SECONDS)[0]:
        row = CodeRepository.objects.get(pk=rng.choice(pks))
        if kind == "write":
            text = f"token-{number}-{done}"
            stale = CodeRepository.objects.defer("ref").get(pk=row.pk)
            row.token_ciphertext, row.ref = text, text
            row.save()
            stale.save()  # which must not bring its older token back
        elif row.token_ciphertext.reveal() != row.ref:
            wrong += 1
        done += 1
    return {"done": done, "wrong": wrong}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
