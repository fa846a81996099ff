"""Print the tables of docs/scaling-out.md: ``python -m tests.simulation``."""

from __future__ import annotations

from collections.abc import Iterator

from tests.simulation.model import SECONDS, Site

SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)
SHOWN = 0.25
"""The share on disks that all but the last table is about."""


def lines(site: Site) -> Iterator[str]:
    """Yield the tables, in Markdown."""
    given, app, shown = site.given, site.app, site.on_disk(SHOWN)
    of = f"{given.repositories:,} repositories, of {site.pack_mb:.1f} MB on average"
    yield f"| {of} | a day | a second | at the peak |"
    yield "| --- | --: | --: | --: |"
    for name, number in (
        ("first clones", site.clones),
        ("clones of what has changed", site.updates),
        ("clones opened by readers", site.opened),
        ("restores", shown.restores),
        ("polls, if something asked every hour", site.polls),
        ("MB from Git hosts, whole clones all of them", site.host_mb),
        ("MB of WAL", shown.wal_mb),
        ("rows of jobs", shown.job_rows),
        ("rows of the audit trail", site.audit_rows),
    ):
        each = number / SECONDS
        yield f"| {name} | {number:,.0f} | {each:,.2f} | {each * given.peak:,.2f} |"
    yield ""
    rows_gb = given.repositories * (app.repository_bytes + app.stored_pack_bytes) / 1e9
    year_gb = 365 * (shown.job_rows * app.job_bytes + site.audit_rows * app.audit_bytes) / 1e9
    yield "| | rows | GB with indexes |"
    yield "| --- | --: | --: |"
    yield f"| repositories and what is stored of them | {2 * given.repositories:,} | {rows_gb:.1f} |"
    yield f"| jobs and audit trail of a year | {365 * (shown.job_rows + site.audit_rows):,.0f} | {year_gb:.1f} |"
    yield ""
    costs = shown.costs
    yield f"| {SHOWN:.0%} of all versions on disks | a day | USD a day |"
    yield "| --- | --: | --: |"
    yield f"| PUT and LIST | {site.puts + site.lists:,.0f} | {costs['put and list']:.2f} |"
    yield f"| GET and HEAD | {shown.gets + site.heads:,.0f} | {costs['get and head']:.2f} |"
    yield f"| DELETE | {site.deletes:,.0f} | 0.00 |"
    yield f"| GB that are stored | {site.stored_mb / 1e3:,.0f} | {costs['stored']:.2f} |"
    yield f"| machines | {shown.machines} | {costs['machines']:.2f} |"
    yield f"| database and broker | | {costs['database']:.2f} |"
    yield ""
    yield "| on disks | TB | opened and there | restores a day | machines by work | by disk | machines | USD a day |"
    yield "| --: | --: | --: | --: | --: | --: | --: | --: |"
    for share in SHARES:
        one = site.on_disk(share)
        there = f"{one.disks_gb / 1e3:.1f} | {one.hits:.0%} | {one.restores:,.0f}"
        machines = f"{one.machines_by_work:.1f} | {one.machines_by_disk:.1f} | {one.machines}"
        yield f"| {share:.0%} | {there} | {machines} | {sum(one.costs.values()):,.0f} |"


if __name__ == "__main__":
    print("\n".join(lines(Site())))
