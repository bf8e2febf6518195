"""Reads a configuration: a TOML file, overrides, and every problem at once."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from clipcap.config.base import Section
from clipcap.config.root import Config
from clipcap.errors import ConfigError
from clipcap.resources import resource


def _find(path: str | Path) -> Path:
    """The file itself, or a shipped config of that name ("sample", "configs/sample.toml")."""
    file = Path(path)
    if file.is_file():
        return file
    shipped = resource("configs") / f"{file.stem}.toml"
    if shipped.is_file() and file.parent in (Path("."), Path("configs")):
        return shipped
    names = ", ".join(sorted(p.stem for p in resource("configs").glob("*.toml")))
    raise ConfigError(f"no configuration at {file}: give a path to a .toml file, or one of the shipped names: {names}")


def _override(values: dict[str, Any], assignment: str) -> None:
    """Applies one ``section.key=value``; the value is read as TOML, and as a plain string where it is none."""
    name, equals, text = assignment.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"--set {assignment}: expected section.key=value, for example train.epochs=3")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, key = name.strip().split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {assignment}: {section!r} is a value, not a section")
    values[key] = value


def _anchor(values: dict[str, Any], folder: Path) -> None:
    """Makes the file's relative paths relative to the file, whichever folder the command runs in."""

    def anchor(section: Any, key: str, prefix: str = "", is_path: Callable[[str], bool] = lambda text: True) -> None:
        text = section.get(key) if isinstance(section, dict) else None
        if isinstance(text, str) and text.startswith(prefix) and is_path(text):
            if "\0" in text:
                raise ConfigError(f"{key}: no path holds the character NUL (got {text!r})")
            section[key] = prefix + str((folder / text.removeprefix(prefix)).resolve())

    def is_file(text: str) -> bool:
        return bool(text) and "://" not in text and not text.startswith("builtin:")

    anchor(values.get("dataset"), "source", is_path=is_file)
    anchor(values.get("dataset"), "images", is_path=is_file)
    anchor(values.get("serve"), "folder", is_path=is_file)
    anchor(values.get("inbox"), "folder", is_path=is_file)
    anchor(values.get("embed"), "encoder", prefix="local-dir:")
    train = values.get("train")
    language_model = train.get("language_model") if isinstance(train, dict) else None

    def is_model_file(text: str) -> bool:  # "owner/repository/file.gguf" is on the hub, unless it is here
        return text.endswith(".gguf") and (text.count("/") < 2 or (folder / text).is_file())

    anchor(language_model, "name", is_path=lambda text: text.startswith(("./", "../", "/")) or is_model_file(text))


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Reads, overrides and validates a configuration.

    Args:
        path: a TOML file, or the name of a shipped one.
        overrides: ``section.key=value`` each, as given to ``--set``; relative paths in them count from the
            current folder.

    Raises:
        ConfigError: with every problem of the file at once.
    """
    file = _find(path)
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from None
    _anchor(values, file.resolve().parent)
    overridden: dict[str, Any] = {}
    for assignment in overrides:
        _override(overridden, assignment)
    _anchor(overridden, Path.cwd())
    return parse_config(_merge(values, overridden), where=str(file))


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def parse_config(values: dict[str, Any], where: str = "the configuration") -> Config:
    """Validates plain values (what flows get as parameters).

    Raises:
        ConfigError: with every problem at once, each with its key.
    """
    return parse_section(Config, values, where)


AnySection = TypeVar("AnySection", bound=Section)


def parse_section(kind: type[AnySection], values: dict[str, Any], where: str) -> AnySection:
    """Validates plain values as one section (or the whole).

    Raises:
        ConfigError: with every problem at once, each with its key.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"]) or "(file)"
            if problem["type"] == "extra_forbidden":
                problems.append(f"{key}: unknown key{_suggest(problem['loc'])}")
            else:
                problems.append(f"{key}: {problem['msg']} (got {problem['input']!r})")
        raise ConfigError(f"{where}: " + "; ".join(problems)) from None


def _suggest(location: tuple[int | str, ...]) -> str:
    """The nearest known key of the same section, as " (did you mean …?)"."""
    import difflib

    section: Any = Config
    for part in location[:-1]:
        field = section.model_fields.get(part)
        section = field.annotation if field else None
        if section is None or not hasattr(section, "model_fields"):
            return ""
    near = difflib.get_close_matches(str(location[-1]), section.model_fields, n=1)
    return f" (did you mean {near[0]}?)" if near else f" (known here: {', '.join(section.model_fields)})"
