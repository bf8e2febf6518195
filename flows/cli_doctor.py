"""``clipcap doctor``: is everything here that the pipeline needs?"""

from __future__ import annotations

from dataclasses import asdict

import typer

from flows import console
from flows.options import AsJson, DataDir, Debug, nearby, open_lake, state

app = typer.Typer()


@app.command()
def doctor(data_dir: DataDir = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """Look for the known traps of installation, machine, lake and server; exit code 1 where something is broken.

    Example: clipcap doctor --data-dir data/sample
    """
    state["debug"] = debug
    from clipcap.doctor import INSTALLATION, MACHINE, checks_of_lake, run_checks
    from flows.doctor import PREFECT

    console.quiet_prefect(debug)
    lake = open_lake(data_dir, must_exist=False)
    with console.working("looking …"):
        findings = list(run_checks([*INSTALLATION, *MACHINE, *checks_of_lake(lake), *PREFECT]))
    rows = [asdict(finding) for finding in findings]
    for row in rows:
        if row["check"] == "published" and row["status"] == "warning":
            row["mend"] += nearby()
    if as_json:
        console.print_json(rows)
    else:
        columns = ("check", "status", "found", "what to do")
        console.print_table([{**row, "what to do": row["mend"]} for row in rows], columns=columns)
    if any(finding.status == "broken" for finding in findings):
        raise typer.Exit(1)
