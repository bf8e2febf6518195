"""The configuration: what is shipped loads, what is wrong is named, all of it at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from clipcap.config import Config, Section, load_config, parse_config
from clipcap.errors import ConfigError
from clipcap.resources import resource

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted(resource("configs").glob("*.toml"))


def sections(section: type[Section] = Config) -> list[type[Section]]:
    found = [section]
    for field in section.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found += sections(field.annotation)
    return found


def write(folder: Path, text: str) -> Path:
    file = folder / "my.toml"
    file.write_text(text, encoding="utf-8")
    return file


def problem(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as raised:
        load_config(write(tmp_path, text), overrides)
    assert "\n" not in str(raised.value), "one line"
    return str(raised.value)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_config_loads_by_path_and_by_name(file: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a shipped name is found from anywhere
    config = load_config(file)
    assert config == load_config(file.stem) == load_config(f"configs/{file.name}")
    assert config.dataset.source


def test_something_is_shipped():
    assert {"sample", "flickr8k"} <= {file.stem for file in SHIPPED}


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_every_field_says_what_it_means(section: type[Section]):
    plain = [
        n
        for n, f in section.model_fields.items()
        if not (isinstance(f.annotation, type) and issubclass(f.annotation, Section))
    ]
    assert [name for name in plain if not section.model_fields[name].description] == []


def test_every_key_is_read_by_the_code_or_by_a_check():
    """By name: an attribute or a text of that name in the code, a variable of a check."""
    files = [file for floor in ("clipcap", "flows", "tasks") for file in (ROOT / floor).rglob("*.py")]
    code = "".join(file.read_text(encoding="utf-8") for file in files if "config" not in file.parts)
    read = {name for found in re.findall(r"(?<=[\w)\]])\.(\w+)|[\"'](\w+)[\"']", code) for name in found}
    checks = " ".join(file.read_text() for file in (ROOT / "sql" / "checks").glob("*.sql"))
    read |= set(re.findall(r"getvariable\('(\w+)'\)", checks))
    keys = {f"{section.__name__}.{name}" for section in sections() for name in section.model_fields}
    assert {key for key in keys if key.partition(".")[2] not in read} == set()


def test_every_key_of_the_file_is_read_from_its_own_section():
    assert {s.__name__ for s in sections()} >= {"LanguageModelConfig", "EmbedConfig", "ServeConfig", "ReportConfig"}


def test_an_empty_file_gives_the_defaults(tmp_path: Path):
    assert load_config(write(tmp_path, "")) == Config()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[train]\nepoch = 3", "train.epoch: unknown key (did you mean epochs?)"),
        ("[train.language_model]\nlayer = 3", "train.language_model.layer: unknown key (did you mean layers?)"),
        ("[trian]\nepochs = 3", "trian: unknown key (did you mean train?)"),
        ("[serve]\nzzz = 3", "serve.zzz: unknown key (known here: folder, port)"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_one(tmp_path: Path, text: str, expected: str):
    assert problem(tmp_path, text).endswith(expected)


@pytest.mark.parametrize(
    ("text", "key", "got"),
    [
        ("[train]\nepochs = 'three'", "train.epochs: ", "'three'"),
        ("[train]\nepochs = 0", "train.epochs: ", "0"),
        ("[train]\nepochs = 2.5", "train.epochs: ", "2.5"),
        ("[train]\nmapper = 'lstm'", "train.mapper: ", "'lstm'"),
        ("[train]\nlearning_rate = nan", "train.learning_rate: ", "nan"),
        ("[train]\nlearning_rate = inf", "train.learning_rate: ", "inf"),
        ("[caption]\nlength_penalty = nan", "caption.length_penalty: ", "nan"),
        ("[train.language_model]\ndropout = 1.5", "train.language_model.dropout: ", "1.5"),
        ("[dataset]\nname = 'No/Name'", "dataset.name: ", "'No/Name'"),
        ("[dataset]\nname = 3", "dataset.name: ", "3"),
        ("[serve]\nport = 70000", "serve.port: ", "70000"),
        ("[evaluate]\nsplit = 'train'", "evaluate.split: ", "'train'"),
        ("train = 3", "train: ", "3"),
        ("dataset = 3", "dataset: ", "3"),
        ("serve = 'here'", "serve: ", "'here'"),
        ("embed = []", "embed: ", "[]"),
        ("[dataset]\nsource = 3", "dataset.source: ", "3"),
        ("[[train]]\nepochs = 3", "train: ", "epochs"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_what_was_got(tmp_path: Path, text: str, key: str, got: str):
    message = problem(tmp_path, text)
    assert f"my.toml: {key}" in message
    assert f"(got {got})" in message or got in message.partition("(got ")[2]


def test_all_problems_are_told_at_once(tmp_path: Path):
    message = problem(
        tmp_path, "[train]\nepochs = 'x'\nmaper = 'mlp'\n[embed]\nworkers = -2\n[nonsense]", "caption.beam_size=0"
    )
    for key in ("train.epochs", "train.maper", "embed.workers", "nonsense", "caption.beam_size"):
        assert f"{key}: " in message
    assert message.count("; ") == 4


@pytest.mark.parametrize("text", ["[train\nepochs = 3", "epochs = ,\nx = 1", "a = 1\na = 2\nb = 3"])
def test_broken_toml_says_where(tmp_path: Path, text: str):
    message = problem(tmp_path, text)
    assert "my.toml is not valid TOML: " in message
    assert "line" in message


def test_bytes_that_are_no_text(tmp_path: Path):
    file = tmp_path / "my.toml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        load_config(file)


@pytest.mark.parametrize("name", ["missing.toml", "missing", "elsewhere/sample.toml", ".", ""])
def test_a_missing_file_names_the_shipped_ones(name: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no configuration at .*flickr8k, .*sample") as raised:
        load_config(name)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    ("assignment", "section", "key", "value"),
    [
        ("train.epochs=3", "train", "epochs", 3),
        ("train.learning_rate=1e-4", "train", "learning_rate", 1e-4),
        ("train.normalize=false", "train", "normalize", False),
        ("train.mapper=transformer", "train", "mapper", "transformer"),
        ('train.mapper="transformer"', "train", "mapper", "transformer"),
        ("embed.encoder=ViT-B-32/laion2b_s34b_b79k", "embed", "encoder", "ViT-B-32/laion2b_s34b_b79k"),
        ("embed.encoder=builtin:sample", "embed", "encoder", "builtin:sample"),
        ("dataset.source=http://host/a=b.csv", "dataset", "source", "http://host/a=b.csv"),
        ("dataset.default_split=", "dataset", "default_split", ""),
        (" train.epochs =3", "train", "epochs", 3),
    ],
)
def test_overrides_are_read_as_toml_else_as_text(
    tmp_path: Path, assignment: str, section: str, key: str, value: object
):
    config = load_config(write(tmp_path, ""), [assignment])
    got = getattr(getattr(config, section), key)
    assert got == value and type(got) is type(value)


def test_overrides_reach_nested_sections_and_leave_the_rest(tmp_path: Path):
    file = write(tmp_path, "[train]\nepochs = 7\n[train.language_model]\nlayers = 2\nheads = 2")
    config = load_config(file, ["train.language_model.layers=5", "train.seed=1", "data_dir=x", "train.seed=2"])
    assert (config.train.language_model.layers, config.train.language_model.heads) == (5, 2)
    assert (config.train.epochs, config.train.seed, config.data_dir) == (7, 2, "x")


@pytest.mark.parametrize(
    "bad", ["train.epochs", "", "=3", " = 3", "data_dir=x", "train=3", "train.epochs.x=3", "dataset=5"]
)
def test_bad_overrides_are_one_clear_line(tmp_path: Path, bad: str):
    overrides = [bad, "data_dir.x=1"] if bad == "data_dir=x" else [bad]
    message = problem(tmp_path, "[train]\nepochs = 3", *overrides)
    assert "expected section.key=value" in message or "is a value, not a section" in message or "my.toml: " in message


def test_relative_paths_count_from_the_file_and_those_of_overrides_from_here(tmp_path: Path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    monkeypatch.chdir(here)
    text = """
    [dataset]
    source = "../list.csv"
    images = "images"
    [serve]
    folder = "served"
    [embed]
    encoder = "local-dir:encoder"
    """
    config = load_config(write(there, text))
    assert config.dataset.source == str(tmp_path / "list.csv")
    assert config.dataset.images == str(there / "images")
    assert config.serve.folder == str(there / "served")
    assert config.embed.encoder == f"local-dir:{there / 'encoder'}"
    config = load_config(write(there, text), ["dataset.source=x.csv", "embed.encoder=local-dir:enc"])
    assert config.dataset.source == str(here / "x.csv")
    assert config.embed.encoder == f"local-dir:{here / 'enc'}"
    assert config.dataset.images == str(there / "images")


def test_what_is_no_relative_path_stays(tmp_path: Path):
    text = """
    [dataset]
    source = "builtin:sample"
    images = "https://host/images/"
    [serve]
    folder = "/absolute"
    [embed]
    encoder = "hf-hub:owner/name"
    """
    config = load_config(write(tmp_path, text))
    assert (config.dataset.source, config.dataset.images) == ("builtin:sample", "https://host/images/")
    assert (config.serve.folder, config.embed.encoder) == ("/absolute", "hf-hub:owner/name")
    assert load_config(write(tmp_path, "")).dataset.source == "", "what is empty stays empty"


def test_what_a_run_records_reads_back_the_same():
    config = load_config("sample")
    assert parse_config(config.model_dump()) == config


def test_a_read_configuration_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load_config("sample").train.epochs = 3
