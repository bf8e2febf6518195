"""The command line as its users meet it: what it prints, its exit codes, and one clear line for bad input."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flows.cli import app

Cli = Callable[..., tuple[int, str, str]]
FIXED_VIEWS = {
    "captions", "latest_captions", "images", "batches", "models", "runs", "metrics", "metrics_by_model", "ledger",
    "lineage",
}  # fmt: skip


def picture(path: Path, colour: tuple[int, int, int] = (200, 30, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48), colour).save(path)
    return path


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.fixture
def lake(tmp_path: Path, clipcap: Cli) -> Path:
    """A lake with one landed batch of two images."""
    picture(tmp_path / "photos" / "a.png")
    picture(tmp_path / "photos" / "b.png", (20, 200, 20))
    assert clipcap("land", tmp_path / "photos", "--dataset", "photos", "--data-dir", tmp_path / "lake")[0] == 0
    return tmp_path / "lake"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained captioner for the sample's encoder."""
    import torch

    from clipcap.config import LanguageModelConfig, TrainConfig
    from clipcap.embedding.encoder import Encoder
    from clipcap.model.build import build_captioner
    from clipcap.model.checkpoint import save_captioner

    encoder = Encoder("builtin:sample", "cpu")
    size = (1, encoder.preprocessing.height, encoder.preprocessing.width, 3)
    clip_dim = encoder.encode(np.zeros(size, np.uint8)).shape[1]
    language_model = LanguageModelConfig(name="scratch", layers=1, heads=2, hidden_size=16, vocab_size=300)
    config = TrainConfig(prefix_length=2, mapper_hidden=8, language_model=language_model)
    texts = ["a red square", "a green square"]
    folder = tmp_path_factory.mktemp("model") / "tiny"
    folder.mkdir()
    torch.manual_seed(0)  # of other weights the two best captions may read the same, and are then one
    captioner = build_captioner(
        config, texts, clip_dim, model_id="tiny", encoder=encoder.name, encoder_hash=encoder.hash
    )
    save_captioner(captioner, folder)
    return folder


def test_every_command_has_help_with_an_example() -> None:
    from typer.main import get_command

    def walk(command: Any, path: list[str]) -> Iterator[tuple[str, str]]:
        children = getattr(command, "commands", {})
        for name, child in children.items():
            yield from walk(child, [*path, name])
        if not children:
            yield " ".join(path), command.help or ""

    commands = dict(walk(get_command(app), []))
    assert {"run", "land", "caption", "evaluate", "sql", "report", "models list", "models show"} <= set(commands)
    for name, text in commands.items():
        assert "Example: clipcap" in text, name


@pytest.mark.usefixtures("no_server")
def test_land_is_idempotent_and_says_that_nothing_was_emitted(tmp_path: Path, lake: Path, clipcap: Cli) -> None:
    code, out, _ = clipcap("land", tmp_path / "photos", "--dataset", "photos", "--data-dir", lake, "--json")
    landed = json.loads(out)
    assert code == 0 and landed["rows"] == {"ok": 2} and not landed["is_new"] and not landed["event_emitted"]
    code, out, _ = clipcap("sql", "select batch_id from batches", "--data-dir", lake, "--json")
    assert json.loads(out) == [{"batch_id": landed["batch_id"]}]


@pytest.mark.parametrize("is_emitted", [True, False])
def test_land_says_whether_somebody_was_told_and_what_comes_next(
    tmp_path: Path, lake: Path, clipcap: Cli, monkeypatch: pytest.MonkeyPatch, is_emitted: bool
) -> None:
    monkeypatch.setattr("flows.landing.emit", lambda *_: is_emitted)
    code, out, err = clipcap("land", tmp_path / "photos", "--dataset", "photos", "--data-dir", lake)
    assert code == 0 and "2 ok (landed before)" in out
    assert ("clipcap.batch.landed was emitted" in err, "no event was emitted" in err) == (is_emitted, not is_emitted)
    assert err.rstrip().endswith(f"clipcap nightly --data-dir {lake}")


def test_data_dir_comes_before_the_environment(
    tmp_path: Path, lake: Path, clipcap: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPCAP_DATA_DIR", str(lake))
    assert clipcap("sql", "select 1 as x", "--csv")[:2] == (0, "x\n1\n")
    code, _, err = clipcap("sql", "select 1", "--data-dir", tmp_path / "elsewhere")
    assert code == 1 and "there is no lake at" in err


def test_sql_lists_views_with_comments(lake: Path, clipcap: Cli) -> None:
    views = {view["view"]: view for view in json.loads(clipcap("sql", "--list", "--data-dir", lake, "--json")[1])}
    assert set(views) >= FIXED_VIEWS
    for name in FIXED_VIEWS:
        assert views[name]["comment"], name
        assert all(column["comment"] for column in views[name]["columns"]), name


@pytest.mark.parametrize("statement", ["select nothing from nowhere", "drop view captions", "select 1; select 2", "%"])
def test_a_wrong_statement_is_one_line(statement: str, lake: Path, clipcap: Cli) -> None:
    code, out, err = clipcap("sql", statement, "--data-dir", lake)
    assert code == 1 and not out and len(err.strip().splitlines()) == 1


def test_caption_gives_a_row_for_every_input(tmp_path: Path, model: Path, clipcap: Cli) -> None:
    good = picture(tmp_path / "good.jpg")
    text = written(tmp_path / "text.jpg", "not a picture")
    code, out, _ = clipcap(
        "caption", text, good, tmp_path / "gone.png", "--model", model, "--num-captions", 2, "--json"
    )
    rows = json.loads(out)
    assert code == 0 and [row["status"] for row in rows] == ["failed", "ok", "failed"]
    assert "decoded" in rows[0]["reason"] and "no such file" in rows[2]["reason"]
    assert len(rows[1]["captions"]) == 2 and rows[1]["caption"] == rows[1]["captions"][0]


def test_caption_fails_only_where_nothing_was_captioned(tmp_path: Path, model: Path, clipcap: Cli) -> None:
    text = written(tmp_path / "text.jpg", "not a picture")
    code, out, _ = clipcap("caption", text, "--model", model, "--json")
    assert code == 1 and json.loads(out)[0]["status"] == "failed"


def test_an_embedding_of_the_wrong_dimension_is_one_line(tmp_path: Path, model: Path, clipcap: Cli) -> None:
    from safetensors.torch import load_file, save_file

    other = Path(shutil.copytree(model, tmp_path / "other"))
    settings = json.loads((other / "config.json").read_text())
    written(other / "config.json", json.dumps(settings | {"clip_dim": 8}))
    weights = load_file(other / "mapping.safetensors")
    first = next(name for name in weights if name.endswith("0.weight"))
    save_file(weights | {first: weights[first][:, :8].contiguous()}, other / "mapping.safetensors")
    code, _, err = clipcap("caption", picture(tmp_path / "a.png"), "--model", other)
    assert code == 1 and str(settings["clip_dim"]) in err and "8" in err and "Error" not in err


BAD_CONFIGS = [
    ("[train]\nepoch = 3", 2, "train.epoch: unknown key (did you mean epochs?)"),
    ("[train\nepochs = 3", 2, "not valid TOML"),
    ("[train]\nepochs = 'many'\nbatch_size = 0", 2, "train.batch_size"),
    ("train = 3", 2, "train"),
    ("[dataset]\nsource = 'nowhere.csv'", 1, "there is no file or folder"),
    ("[dataset]\nsource = 'empty.csv'", 1, "no usable row"),
    ("[dataset]\nsource = 'bad.csv'", 1, "no usable row"),
    ("[dataset]\nsource = 'nourl.csv'", 1, "expected one named 'url'"),
    ("[dataset]\nsource = 'good.csv'\n[embed]\nencoder = 'local-dir:gone'", 1, "there is no folder"),
    ("[dataset]\nsource = 'good.csv'\n[embed]\nencoder = 'ViT-B-32/openai'", 1, "quickgelu"),
    (
        "[dataset]\nsource = 'good.csv'\n[embed]\nencoder = 'builtin:sample'\n"
        "[train.language_model]\nname = './no-such-model'",
        1,
        "no-such-model",
    ),
]


@pytest.mark.parametrize(("text", "code", "said"), BAD_CONFIGS)
def test_bad_configurations_are_one_line_before_any_flow(
    text: str, code: int, said: str, tmp_path: Path, clipcap: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    written(tmp_path / "empty.csv", "url,caption\n")
    written(tmp_path / "bad.csv", "url,caption\nnot a url,x\nftp://host/a.jpg,y\n,z\n")
    written(tmp_path / "nourl.csv", "link,caption\nhttp://host/a.jpg,x\n")
    written(tmp_path / "good.csv", "url,caption\nhttp://127.0.0.1:9/a.jpg,x\n")
    config = written(tmp_path / "config.toml", text)
    got, out, err = clipcap("run", config, "--data-dir", tmp_path / "lake")
    assert (got, out, len(err.strip().splitlines())) == (code, "", 1) and said in err, err
    assert not (tmp_path / "lake").exists()


def test_wrong_use_exits_with_2(clipcap: Cli, tmp_path: Path) -> None:
    assert clipcap("no-such-command")[0] == 2
    assert clipcap("run", tmp_path / "gone.toml")[0] == 2
    assert clipcap("run", "sample", "--no-such-option")[0] == 2
    code, _, err = clipcap("run", "sample", "--set", "train.epochs")
    assert code == 2 and "section.key=value" in err


def test_a_landed_list_without_a_usable_url_leaves_nothing(tmp_path: Path, clipcap: Cli) -> None:
    urls = written(tmp_path / "urls.csv", "url\nfile:///etc/hostname\nnonsense\n")
    code, _, err = clipcap("land", urls, "--data-dir", tmp_path / "lake")
    assert code == 1 and "no usable row" in err and not (tmp_path / "lake").exists()


def test_an_unknown_model_names_those_that_exist(lake: Path, tmp_path: Path, clipcap: Cli) -> None:
    for command in (("caption", tmp_path / "photos" / "a.png", "--model", "other"), ("models", "show", "other")):
        code, _, err = clipcap(*command, "--data-dir", lake)
        assert code == 1 and "'other'" in err and "none yet" in err
    assert json.loads(clipcap("models", "list", "--data-dir", lake, "--json")[1]) == []
    code, _, err = clipcap("caption", "x.jpg", "--model", tmp_path / "gone")
    assert code == 1 and f"{tmp_path / 'gone'} is no model's folder" in err, "and not that there is no lake"


def test_a_cluster_without_its_package_is_one_clear_line(monkeypatch):
    from clipcap.config import Config
    from clipcap.errors import ConfigError
    from flows.engine import submit_to

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'clipcap-pipeline\[ray\]'"):
        submit_to(Config(engine="ray"))


def test_embeddings_come_in_and_go_out_again(clipcap: Cli, tmp_path: Path):
    import pandas as pd

    folder, out, lake = tmp_path / "theirs", tmp_path / "out", tmp_path / "lake"
    (folder / "img_emb").mkdir(parents=True), (folder / "metadata").mkdir()
    vectors = np.eye(5, 256, dtype=np.float16)
    np.save(folder / "img_emb" / "img_emb_0.npy", vectors)
    urls = [f"http://h/{n}" for n in range(5)]
    frame = pd.DataFrame({"image_path": list("abcde"), "caption": list("vwxyz"), "url": urls})
    frame.to_parquet(folder / "metadata" / "metadata_0.parquet")
    command = ("import-embeddings", folder, "--encoder", "builtin:sample", "--dataset", "theirs", "--data-dir", lake)
    code, text, _ = clipcap(*command, "--json")
    assert code == 0 and json.loads(text)["rows"] == {"ok": 5, "failed": 0}
    assert "imported before" in clipcap(*command)[1]
    code, text, _ = clipcap("export", "--out", out, "--data-dir", lake, "--json")
    assert code == 0 and json.loads(text)["rows"] == 5
    np.testing.assert_array_equal(np.load(out / "img_emb" / "img_emb_0.npy"), vectors)
    code, _, err = clipcap("export", "--out", out, "--layout", "faiss", "--data-dir", lake)
    assert code == 2 and "--layout faiss" in err
