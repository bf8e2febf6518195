"""Commands that print cards of models and batches, as the Hugging Face hub reads them."""

from __future__ import annotations

from typing import Annotated

import typer

from flows import console
from flows.cli_models import models_app
from flows.options import AsJson, DataDir, Debug, open_lake, state

app = typer.Typer()
batches_app = typer.Typer(no_args_is_help=True, help="The batches of a lake. Example: clipcap batches card BATCH")
app.add_typer(batches_app, name="batches")

Licence = Annotated[str, typer.Option("--licence", metavar="ID", help="As the hub names it: mit, cc-by-4.0.")]


@models_app.command("card")
def models_card(
    model_id: Annotated[str, typer.Argument(metavar="ID", help="As `clipcap models list` prints it.")],
    licence: Licence = "",
    data_dir: DataDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Print a model's card: what it is, what it learned from, its scores, examples and limits; --json: its facts.

    Example: clipcap models card sample-mlp-0a1b2c3d > README.md
    """
    state["debug"] = debug
    from clipcap.cards.model_card import model_card, model_facts

    facts = model_facts(open_lake(data_dir), model_id, licence)
    if as_json:
        return console.print_json(facts)
    typer.echo(model_card(facts), nl=False)


@batches_app.command("card")
def batches_card(
    batch_id: Annotated[str, typer.Argument(metavar="ID", help='As `clipcap sql "from batches"` prints it.')],
    licence: Licence = "",
    data_dir: DataDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Print a batch's card: its source, what became of each row and why, captions, licences; --json: its facts.

    Example: clipcap batches card sample-0a1b2c3d > DATASET_CARD.md
    """
    state["debug"] = debug
    from clipcap.cards.dataset_card import dataset_card, dataset_facts

    facts = dataset_facts(open_lake(data_dir), batch_id, licence)
    if as_json:
        return console.print_json(facts)
    typer.echo(dataset_card(facts), nl=False)
