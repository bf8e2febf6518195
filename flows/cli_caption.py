"""``clipcap caption``: images in, captions out, now."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipcap.errors import ConfigError
from flows import complete, console
from flows.options import AsJson, DataDir, Debug, model_folder, only_one, state

app = typer.Typer()


@app.command()
def caption(
    images: Annotated[list[str], typer.Argument(help="Files, folders or URLs; - reads them from standard input.")],
    model: Annotated[
        str,
        typer.Option("--model", help="A model id of the lake, or a model's folder.", autocompletion=complete.models),
    ] = "",
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE.jsonl", help="Append here; goes on later.")] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE.html", help="A contact sheet.")] = None,
    as_lines: Annotated[bool, typer.Option("--jsonl", help="JSON lines on stdout, as they come.")] = False,
    beam_size: Annotated[int | None, typer.Option("--beam-size", min=1, help="Beams; 1 is greedy.")] = None,
    num_captions: Annotated[
        int | None, typer.Option("--num-captions", min=1, help="Captions for each image; needs as many beams.")
    ] = None,
    method: Annotated[str | None, typer.Option("--method", help="beam, sample or published.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="Sampling: below 1 is careful.")] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", help="Sampling: from the K likeliest tokens.")] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", help="Sampling: from the nucleus of this mass.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Sampling: the same seed, the same captions.")] = None,
    rerank: Annotated[float | None, typer.Option("--rerank", help="Weight of CLIP in choosing, 0 to 1.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda.")] = "auto",
    data_dir: DataDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Caption images now: one row for each input, failures included. What is not given is as the model says.

    Example: clipcap caption photos/ --out captions.jsonl
    """
    state["debug"] = debug
    if as_json and as_lines:
        raise ConfigError("--json is one document and --jsonl a line for each image: give one of them")
    only_one("say where the captions go", jsonl=as_lines, out=out)
    only_one("say where the captions go", jsonl=as_lines, html=html)
    if out and html:
        raise ConfigError("--html shows what this command captions, --out skips what it did before: give one of them")
    folder = model_folder(model, data_dir)
    from flows.captions import Wanted, caption_now

    wanted = Wanted(out, html, as_json, as_lines)
    asked = {
        "beam_size": beam_size, "num_captions": num_captions, "method": method, "temperature": temperature,
        "top_k": top_k, "top_p": top_p, "seed": seed, "rerank": rerank,
    }  # fmt: skip
    try:
        is_useful = caption_now(images, folder, device, asked, wanted)
    except KeyboardInterrupt:
        kept = (
            f"what was captioned is in {out}, and the same command goes on from there"
            if out else "nothing was stored; with --out FILE.jsonl a stopped command can go on"
        )  # fmt: skip
        typer.echo(f"stopped; {console.shown(kept)}", err=True)
        raise typer.Exit(130) from None
    if not is_useful:
        raise typer.Exit(1)
