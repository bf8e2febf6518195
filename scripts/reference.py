"""Writes docs/reference/ from the code: every key, command, view and public name. ``--check`` only compares.

    python scripts/reference.py

What a page says stands where it is meant: under a field of the configuration, in a command's help, in a comment of
the catalog, in a docstring.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clipcap
from clipcap.config import Config
from clipcap.resources import resource
from clipcap.storage.lake import Lake
from clipcap.warehouse.queries import list_macros, list_views

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "reference"
MADE = "<!-- Made by `python scripts/reference.py`; change the code that it describes, not this page. -->\n"


def pages() -> dict[str, str]:
    """File name → text of each page."""
    made = {
        "configuration.md": configuration(), "command-line.md": command_line(), "sql.md": sql(), "python.md": python(),
    }  # fmt: skip
    return {name: re.sub(r"\n{3,}", "\n\n", MADE + text).rstrip() + "\n" for name, text in made.items()}


def table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table of Markdown; "" where there is no row."""
    lines = [columns, ("---",) * len(columns), *rows] if rows else []
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)


def configuration() -> str:
    """Every section and key, as pydantic describes them."""
    schema = Config.model_json_schema()
    text = [
        "# Configuration\n\nA TOML file, or the name of a shipped one (`sample`). What a file does not name has its "
        "default; unknown keys are errors, and all errors are told at once. `--set section.key=value` overrides a key "
        "for one command. Relative paths count from the file, those of `--set` from the current folder.\n",
        *_section(schema, "", schema),
    ]
    return "\n".join(text)


def _section(schema: dict[str, Any], path: str, root: dict[str, Any]) -> Iterator[str]:
    inner, rows = [], []
    for name, field in schema["properties"].items():
        if "$ref" in field:
            inner.append((f"{path}.{name}".lstrip("."), root["$defs"][field["$ref"].rpartition("/")[2]]))
        else:
            meaning = field.get("description", "")
            rows.append((f"`{name}`", _type(field), f"`{_toml(field['default'])}`", meaning))
    yield f"## {f'[{path}]' if path else 'Top level'}\n"
    yield f"{schema.get('description', '')}\n" if path else ""
    yield table(("key", "type", "default", "meaning"), rows)
    for below, definition in inner:
        yield from _section(definition, below, root)


def _type(field: dict[str, Any]) -> str:
    """The type with its limits: "integer ≥ 1", "number 0 to 1", '"beam", "sample"'."""
    if "enum" in field:
        return ", ".join(f"`{_toml(value)}`" for value in field["enum"])
    if field["type"] == "array":
        return f"list of {_type(field['items'])}"
    limits = ""
    if "minimum" in field and "maximum" in field:
        limits = f" {field['minimum']:g} to {field['maximum']:g}"
    else:
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<")):
            limits += f" {sign} {field[key]:g}" if key in field else ""
    limits += f" like `{field['pattern']}`" if "pattern" in field else ""
    return {"boolean": "true or false"}.get(field["type"], field["type"]) + limits


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def command_line() -> str:
    """Every command with its arguments and options, as its help says."""
    from typer.main import get_command

    from flows.cli import app

    root = get_command(app)
    text = (
        "# Command line\n\nEach command has `--help` with an example, and `--json` where it prints a result: one JSON "
        "document on stdout, everything else on stderr. Exit code 0 is success, 1 failure, 2 wrong use or an invalid "
        "configuration, 130 stopped by Ctrl-C. `clipcap --version` prints the version, `clipcap --install-completion` "
        "teaches the shell to complete names.\n\n"
    )
    commands = sorted(_commands(root, "clipcap"))
    summary = [(f"[`{n}`](#{n.replace(' ', '-')})", (c.help or "").partition("\n")[0]) for n, c in commands]
    return text + table(("command", "does"), summary) + "\n" + "\n".join(_command(n, c) for n, c in commands)


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name, inner in getattr(command, "commands", {}).items():
        if hasattr(inner, "commands"):
            yield from _commands(inner, f"{path} {name}")
        elif not inner.hidden:
            yield f"{path} {name}", inner


def _command(name: str, command: Any) -> str:
    words, _, example = (command.help or "").partition("Example: ")
    shown = [p for p in command.params if not getattr(p, "hidden", False) and p.name != "help"]
    arguments = [p for p in shown if p.param_type_name == "argument"]
    usage = " ".join([name, *(_placeholder(p) for p in arguments), "[OPTIONS]"])
    rows = [(f"`{_placeholder(p)}`", _help(p)) for p in arguments]
    rows += [(_option(p), _help(p)) for p in shown if p.param_type_name == "option"]
    return (
        f"## {name}\n\n{' '.join(words.split())}\n\n```text\n{usage}\n```\n\n{table(('', 'meaning'), rows)}\n"
        f"Example:\n\n```text\n{example.strip()}\n```\n"
    )


def _placeholder(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    name += "…" if argument.nargs == -1 else ""
    return name if argument.required else f"[{name}]"


def _option(option: Any) -> str:
    names = ", ".join(option.opts) + "".join(f" / {name}" for name in option.secondary_opts)
    if option.is_flag:
        return f"`{names}`"
    return f"`{names} {option.metavar or option.name.strip('_').upper()}`"


def _help(parameter: Any) -> str:
    """Its meaning and, where that says something, its default."""
    text = parameter.help or ""
    default = parameter.default
    if parameter.required or default in (None, "", False, True, [], ()) or callable(default):
        return text
    return f"{text} Default: {default}."


def sql() -> str:
    """Views with their columns, macros, and checks, of the catalog of an empty lake."""
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(Path(folder) / "lake")
        lake.root.mkdir()
        views, macros = list_views(lake), list_macros(lake)
    text = (
        "# SQL\n\nViews, macros and checks of a lake's catalog; [sql.md](../sql.md) shows how to ask. `clipcap sql "
        "--list` prints the same of your lake.\n\n## Views\n\n"
    )
    text += table(("view", "comment"), [(f"[`{view.name}`](#{view.name})", view.comment) for view in views])
    for view in views:
        columns = [(f"`{column['name']}`", column["type"], column["comment"]) for column in view.columns]
        text += f"\n### {view.name}\n\n{view.comment}\n\n" + table(("column", "type", "comment"), columns)
    for title, is_table in (("Macros that give rows: `from NAME(…)`", True), ("Macros in expressions", False)):
        rows = [(f"`{macro.signature}`", macro.comment) for macro in macros if macro.is_table == is_table]
        text += f"\n## {title}\n\n" + table(("macro", "comment"), rows)
    checks = []
    for file in sorted((resource("sql") / "checks").glob("[0-9]*.sql")):
        grain, severity, *_ = (line.removeprefix("-- ") for line in file.read_text(encoding="utf-8").splitlines())
        checks.append((f"`{file.stem.partition('_')[2]}`", severity.removeprefix("severity: "), grain))
    return text + "\n## Checks\n\nEach returns offending rows.\n\n" + table(("check", "severity", "returns"), checks)


def python() -> str:
    """Names that ``import clipcap`` offers, with signature and docstring."""
    names = sorted((name for name in clipcap.__all__ if name != "__version__"), key=str.lower)
    text = (
        "# Python\n\nWhat `import clipcap` offers. Nothing here needs an orchestrator, and each name is imported when "
        "it is first used. Everything else in the package may change between versions; "
        "[architecture.md](../architecture.md) shows what there is.\n\n"
    )
    things = {name: getattr(clipcap, name) for name in names}
    rows = [(f"[`{n}`](#{n.lower()})", f"`{thing.__module__}`", _doc(thing)[0]) for n, thing in things.items()]
    text += table(("name", "from", "is"), rows)
    for name, thing in things.items():
        first, rest = _doc(thing)
        body = f"```text\n{rest}\n```\n" if rest else ""
        text += f"\n## {name}\n\n{first}\n\n```python\n{_signature(name, thing)}\n```\n\n{body}"
        if inspect.isclass(thing):
            own = {m: v for m, v in vars(thing).items() if not m.startswith("_")}
            kinds = (property, classmethod, staticmethod)
            methods = [m for m, value in own.items() if inspect.isfunction(value) or isinstance(value, kinds)]
            rows = [(f"`{m}`", _doc(getattr(thing, m))[0]) for m in methods]
            text += "\n" + table(("member", "is"), [row for row in rows if row[1]])
    return text


def _signature(name: str, thing: Any) -> str:
    """As one would write it, a parameter in a line where it is long; the configuration has a page of its own."""
    if inspect.isclass(thing) and (issubclass(thing, Exception) or hasattr(thing, "model_fields")):
        return f"class {name}"
    signature = inspect.signature(thing)
    parts = [str(parameter).replace("'", "").partition(" = ") for parameter in signature.parameters.values()]
    defaults = [parameter.default for parameter in signature.parameters.values()]
    written = [
        left + equals + ("…" if right.startswith("<") else repr(default) if equals else "")
        for (left, equals, right), default in zip(parts, defaults, strict=True)
    ]
    returned = signature.return_annotation
    result = "" if inspect.isclass(thing) or returned is signature.empty else f" -> {returned}".replace("'", "")
    line = f"{name}({', '.join(written)}){result}"
    return line if len(line) <= 110 else f"{name}(\n{''.join(f'    {part},' + chr(10) for part in written)}){result}"


def _doc(thing: Any) -> tuple[str, str]:
    """First line and the rest of a docstring of its own, without Sphinx's roles."""
    text = inspect.getdoc(thing) or ""
    if inspect.isclass(thing) and not vars(thing).get("__doc__"):  # what it inherits says nothing about it
        text = "A section of the configuration: [configuration.md](configuration.md)."
    first, _, rest = re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", text).partition("\n\n")
    return " ".join(first.split()), rest.strip()


def main() -> int:
    """Exit code 1 where ``--check`` finds a page that is not as the code says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, name the pages that are old")
    is_check = parser.parse_args().check
    old = []
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        file = FOLDER / name
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            old.append(name)
            if not is_check:
                file.write_text(text, encoding="utf-8")
    print(f"{'old' if is_check else 'written'}: {', '.join(old) or 'none'}")
    return int(is_check and bool(old))


if __name__ == "__main__":
    sys.exit(main())
