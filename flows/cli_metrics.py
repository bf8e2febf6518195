"""Commands that score captions and compare models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clipcap.errors import ConfigError, DataError
from flows import complete, console
from flows.cells import COUNTS, score
from flows.options import AsJson, DataDir, Debug, open_lake, state

app = typer.Typer()
metrics_app = typer.Typer(no_args_is_help=True, help="Scores of models. Example: clipcap metrics diff NEW OLD")
app.add_typer(metrics_app, name="metrics")

Resamples = Annotated[
    int, typer.Option("--resamples", min=0, help="Bootstrap resamples of the images; 0: no intervals.")
]
Confidence = Annotated[float, typer.Option("--confidence", min=0.01, max=0.9999, help="Of the intervals.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of the resamples: the same seed, the same intervals.")]


@app.command()
def evaluate(
    references: Annotated[Path, typer.Option("--references", help="COCO annotations, Karpathy or {id: [captions]}.")],
    candidates: Annotated[Path, typer.Option("--candidates", help="COCO results, or {id: caption or captions}.")],
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            help="Only these; may be repeated. Also meteor, spice, clip_score, self_cider …",
            autocompletion=complete.metrics,
        ),
    ] = None,
    images: Annotated[Path | None, typer.Option("--images", metavar="DIR", help="For CLIPScore: the images.")] = None,
    encoder: Annotated[str, typer.Option("--encoder", help="For CLIPScore: its encoder, as in embed.encoder.")] = "",
    device: Annotated[str, typer.Option("--device", help="For CLIPScore: auto, cpu, cuda.")] = "auto",
    resamples: Resamples = 1000,
    confidence: Confidence = 0.95,
    seed: Seed = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Score captions as the COCO caption evaluation does, without Java, each metric with its bootstrap interval.

    Example: clipcap evaluate --references refs.json --candidates mine.json --json
    """
    state["debug"] = debug
    from clipcap.metrics.evaluate_files import evaluate_files

    scores = evaluate_files(references, candidates, metric or (), images, encoder, device)
    intervals = scores.intervals(resamples, confidence, seed)
    if as_json:
        return console.print_json({**scores.corpus, "intervals": intervals})
    rows = [
        {"metric": name, "value": score(name, value), **_ends(intervals.get(name))}
        for name, value in scores.corpus.items()
    ]
    return console.print_table(rows, columns=("metric", "value", "low", "high") if intervals else ("metric", "value"))


def _ends(interval: tuple[float, float] | None) -> dict[str, float]:
    return {"low": interval[0], "high": interval[1]} if interval else {}


@metrics_app.command("diff")
def metrics_diff(
    candidate: Annotated[str, typer.Argument(metavar="A", help="A model id of the lake, or a file of candidates.")],
    baseline: Annotated[str, typer.Argument(metavar="B", help="What A is held against: the same kind.")],
    references: Annotated[
        Path | None, typer.Option("--references", help="Of two files: COCO annotations, Karpathy, {id: [captions]}.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Of two models: test, val; else the newest of both.")] = "",
    resamples: Resamples = 1000,
    confidence: Confidence = 0.95,
    seed: Seed = 0,
    data_dir: DataDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Is A better than B? Paired bootstrap on the same images: an interval without 0 says that it is no accident.

    Example: clipcap metrics diff sample-mlp-1a2b3c4d sample-mlp-0a1b2c3d
    """
    state["debug"] = debug
    how: dict[str, Any] = {"resamples": resamples, "confidence": confidence, "seed": seed}
    if references is not None:
        from clipcap.metrics.evaluate_files import compare_files

        rows, title = compare_files(references, Path(candidate), Path(baseline), **how), ""
    elif Path(candidate).is_file() and Path(baseline).is_file():
        raise ConfigError("two files of candidates are compared by their references: add --references FILE")
    elif gone := [name for name in (candidate, baseline) if name.endswith(".json") and not Path(name).is_file()]:
        raise DataError(f"there is no file {gone[0]}: name two files of candidates, or two models of a lake")
    else:
        from clipcap.metrics.compare import compare_entries

        lake = open_lake(data_dir)
        ours, theirs = _evaluations(lake, candidate, baseline, split)
        rows, title = compare_entries(lake, ours, theirs, **how), f", split {ours.meta['split']}"
    if as_json:
        return console.print_json(rows)
    _print_difference(rows, f"{candidate} against {baseline}{title}, {rows[0]['images']:,} images")
    return None


def _evaluations(lake: Any, candidate: str, baseline: str, split: str) -> tuple[Any, Any]:
    """The newest evaluations of both models on the same images."""
    from clipcap.metrics.compare import can_compare
    from clipcap.storage.manifest import EntryIndex

    entries = sorted(EntryIndex(lake).of_stage("evaluate"), key=lambda entry: entry.created_at, reverse=True)
    of = {id: [e for e in entries if e.meta["model_id"] == id] for id in (candidate, baseline)}
    for model_id, found in of.items():
        if not found:
            known = ", ".join(sorted({e.meta["model_id"] for e in entries})) or "none yet"
            raise DataError(f"no model {model_id!r} was evaluated in {lake.address}; there are: {known}")
    pairs = [(a, b) for a in of[candidate] for b in of[baseline] if can_compare(a, b)]
    fitting = [pair for pair in pairs if split in ("", pair[0].meta["split"])]
    if not fitting:
        where = f" of split {split}" if split else ""
        raise DataError(
            f"{candidate} and {baseline} were never evaluated on the same images{where}: run `clipcap run` with each "
            "on the same batch, or compare files of their captions with --references"
        )
    return fitting[0]


def _print_difference(rows: list[dict[str, Any]], title: str) -> None:
    table = [
        {
            "metric": row["metric"],
            **{name: score(row["metric"], row[of]) for name, of in (("A", "candidate_value"), ("B", "baseline_value"))},
            "difference": f"{row['difference']:+,.{0 if row['metric'] in COUNTS else 4}f}",
            "interval": "" if row["low"] is None else f"{row['low']:+,.4f} … {row['high']:+,.4f}",
            "": "" if row["low"] is None or row["low"] <= 0 <= row["high"] else "*",
            "wins": row["wins"], "ties": row["ties"], "losses": row["losses"],
        }
        for row in rows
    ]  # fmt: skip
    console.print_table(table, title=title)
    typer.echo("* the interval does not hold 0: more than the chance of which images were scored")
