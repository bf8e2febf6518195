"""``clipcap import-weights`` and ``export-weights``: what they print, their exit codes, and a caption at the end."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from PIL import Image

from clipcap.config import LanguageModelConfig
from clipcap.model.language_model import new_language_model
from clipcap.model.mapping import MlpMapper
from clipcap.model.published_weights import ImportOptions
from clipcap.storage.entries import Recorder
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import commit_generation
from flows.cli import import_weights

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small checkpoint for the sample's encoder, tuned.pt, and its tokenizer."""
    from clipcap.embedding.encoder import Encoder

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("published")
    sizes = LanguageModelConfig(layers=1, heads=1, hidden_size=64, vocab_size=270)
    gpt, tokenizer = new_language_model(sizes, ["a red dog."], positions=96)
    mapper = MlpMapper(Encoder("builtin:sample").model.visual.output_dim, 64, 4)
    weights = {f"gpt.{name}": tensor for name, tensor in gpt.state_dict().items()}
    weights |= {f"clip_project.{name}": tensor for name, tensor in mapper.state_dict().items()}
    torch.save(weights, folder / "tuned.pt")
    tokenizer.save_pretrained(folder / "words")
    return folder


def imported(clipcap: Cli, published: Path, out: Path, *more: object) -> tuple[int, str, str]:
    options = ("--encoder", "builtin:sample", "--tokenizer", published / "words")
    return clipcap("import-weights", published / "tuned.pt", "--out", out, *options, *more)


def test_in_a_caption_and_out_again(clipcap: Cli, published: Path, tmp_path: Path) -> None:
    code, out, _ = imported(clipcap, published, tmp_path / "m", "--normalize", "--json")
    facts = json.loads(out)
    assert code == 0 and facts["tuned"] is True and len(facts["sha256"]) == 64
    assert facts["read"]["prefix_length"] == 4 and facts["read"]["language_model_vocabulary"] <= 270
    assert facts["assumed"]["normalize"] is True and facts["assumed"]["gpt_heads"] == 1

    Image.new("RGB", (64, 64), (200, 30, 30)).save(tmp_path / "a.png")
    code, out, _ = clipcap("caption", tmp_path / "a.png", "--model", tmp_path / "m", "--device", "cpu", "--json")
    assert code == 0 and json.loads(out)[0]["status"] == "ok"

    code, out, _ = clipcap("export-weights", tmp_path / "m", "--out", tmp_path / "b.pt", "--json")
    facts = json.loads(out)
    assert code == 0 and facts["has_language_model"] is True
    given = torch.load(published / "tuned.pt", weights_only=True)
    back = torch.load(tmp_path / "b.pt", weights_only=True)
    assert back.keys() == given.keys() and facts["tensors"] == len(given)
    assert all(torch.equal(back[name], tensor) for name, tensor in given.items())


def test_for_a_person_it_says_what_was_assumed(clipcap: Cli, published: Path, tmp_path: Path) -> None:
    code, out, _ = imported(clipcap, published, tmp_path / "m")
    assert code == 0
    lines = {line.split("│")[1].strip(): line for line in out.splitlines() if line.count("│") > 2}
    assert "builtin:sample" in lines["encoder"] and "assumed" in lines["encoder"]
    assert "4" in lines["prefix_length"] and "read off" in lines["prefix_length"]
    assert "False" in lines["normalize"] and "assumed" in lines["normalize"]
    code, out, _ = clipcap("export-weights", tmp_path / "m", "--out", tmp_path / "b.pt")
    assert code == 0 and "21 tensors" in out
    assert f"to have the same model back: clipcap import-weights {tmp_path / 'b.pt'} --out" in out


def test_a_model_of_a_lake_is_found_by_its_id(clipcap: Cli, published: Path, tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    with Recorder(lake, "train", "train/mine", "key", "", model_id="mine") as entry:
        assert imported(clipcap, published, lake.model("mine"))[0] == 0
        entry.add("model", lake.model("mine") / "config.json")
    commit_generation(lake, [entry.entry])
    asked = ("--out", tmp_path / "b.pt", "--data-dir", lake.root)
    code, _, err = clipcap("export-weights", "nobody", *asked)
    assert code == 1 and "no model 'nobody'" in err and "there are: mine" in err
    assert clipcap("export-weights", "mine", *asked)[0] == 0
    assert torch.load(tmp_path / "b.pt", weights_only=True).keys() == torch.load(published / "tuned.pt").keys()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("import-weights", "none.pt", "--out", "m"), 1, "error: there is no file none.pt"),
        (("import-weights", "text.pt", "--out", "m"), 1, "is no whole checkpoint"),
        (("import-weights", "text.pt", "--out", "."), 1, "is not an empty folder"),
        (("import-weights", "text.pt"), 2, "--out"),
        (("import-weights", "text.pt", "--out", "m", "--heads", "0"), 2, "--heads"),
        (("export-weights", "nowhere", "--out", "b.pt"), 1, "error: there is no lake"),
        (("export-weights", "nowhere"), 2, "--out"),
    ],
)
def test_wrong_use_is_one_line(
    clipcap: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLIPCAP_DATA_DIR", raising=False)
    Path("text.pt").write_text("hello, this is text")
    found, out, err = clipcap(*arguments)
    assert (found, out) == (code, "") and words in err
    assert code == 2 or len(err.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["text.pt"]


def test_the_command_has_the_library_s_defaults() -> None:
    parameters = inspect.signature(import_weights).parameters
    defaults = {field.name: field.default for field in fields(ImportOptions)}
    assert {name: parameters[name].default for name in defaults} == defaults


@pytest.mark.parametrize("command", ["import-weights", "export-weights"])
def test_help_has_an_example(clipcap: Cli, command: str) -> None:
    code, out, _ = clipcap(command, "--help")
    assert code == 0 and f"Example: clipcap {command}" in " ".join(out.split())
