"""What the README promises can be run as it stands there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from PIL import Image

from clipcap.config import parse_config
from clipcap.dataset.land import land, read_landing
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import commit_generation
from clipcap.warehouse.queries import query

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)
    return [text for name, text in fenced if name == language]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    folder = tmp_path_factory.mktemp("readme")
    (folder / "photos").mkdir()
    Image.new("RGB", (40, 40)).save(folder / "photos" / "a.png")
    lake = Lake(folder / "lake")
    source = {"dataset": {"source": str(folder / "photos")}}
    commit_generation(lake, [land(lake, read_landing(parse_config(source)))])
    return lake


def test_sql_runs(lake: Lake) -> None:
    statements = [s for s in "".join(blocks("sql")).split(";") if s.strip()]
    assert len(statements) >= 3
    for statement in statements:
        query(lake, statement)


def test_configuration_is_valid() -> None:
    (text,) = blocks("toml")
    parse_config(tomllib.loads(text), "README.md")


def test_commands_and_options_exist() -> None:
    from typer.main import get_command

    from flows.cli import app

    root = get_command(app)
    lines = [line.partition("#")[0].split() for block in blocks("") for line in block.splitlines()]
    commands = [words for words in lines if words and words[0] == "clipcap"]
    assert len(commands) >= 4
    for words in commands:
        command, rest = root, words[1:]
        while hasattr(command, "commands"):  # groups, such as film
            command, rest = command.commands[rest[0]], rest[1:]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, words


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"^make ([a-z-]+)", README, flags=re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_deployments_and_pool_are_those_of_prefect_yaml() -> None:
    deployed = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
    flow_names = {
        "flows/pipeline.py": "pipeline", "flows/nightly.py": "caption-nightly", "flows/publish.py": "publish",
        "flows/retrain.py": "retrain", "flows/maintenance.py": "maintenance",
    }  # fmt: skip
    names = {f"{flow_names[d['entrypoint'].partition(':')[0]]}/{d['name']}" for d in deployed["deployments"]}
    fixed = {"pipeline/pipeline", "caption-nightly/nightly", "retrain/on-new-data", "publish/report"}
    assert names == fixed | {"maintenance/cleanup"}
    assert set(re.findall(rf"[`'](({'|'.join(flow_names.values())})/[a-z-]+)[`']", README)) == {
        (name, name.partition("/")[0]) for name in names
    }
    assert {d["work_pool"]["name"] for d in deployed["deployments"]} == set(
        re.findall(r"worker start --pool ([a-z]+)", README)
    )


def test_the_file_tree_is_true() -> None:
    (tree,) = [block for block in blocks("") if block.startswith("flows/")]
    for line in tree.splitlines():
        name = line.split()[0]
        place = ROOT / "clipcap" / name if line.startswith("  ") else ROOT / name
        assert place.is_dir(), line


def test_linked_files_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert "://" in target or (ROOT / target).exists(), target
