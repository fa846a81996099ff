"""Does one piece of work of a machine, for tests that kill it meanwhile: ``store``, or ``run`` and the id of a job."""

from __future__ import annotations

import sys
import uuid

import django


def main(work: str, job_id: str = "") -> None:
    """Do it."""
    django.setup()
    from coderepos.services import worker
    from coderepos.services.disk import this_machine
    from coderepos.services.packs import storing

    if work == "store":
        storing.run_storage_round(this_machine.register_node())
    else:
        worker.run_clone(job_id=uuid.UUID(job_id))


if __name__ == "__main__":
    main(*sys.argv[1:])
