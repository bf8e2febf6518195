"""Renders a card: YAML for the hub, Markdown for people, and nothing that arrived from outside acts as either."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from clipcap.report import text

TEMPLATES = Path(__file__).parent / "templates"
_MARKS = re.compile(r"([\\`*_{}\[\]<>#|!~&$])")


def escaped(found: str) -> str:
    """One line of plain text in Markdown, in a table too: no mark, link, picture or tag of it is obeyed."""
    shown = _MARKS.sub(r"\\\1", text.visible(text.shortened(" ".join(found.split()))))
    return re.sub(r"\b(https?|ftp|mailto|www)(:|\.)", r"\1\\\2", shown)  # many readers make links of bare addresses


def quoted(found: Any) -> Markup:
    """A name or a number as it is typed, in code marks."""
    plain = text.visible(" ".join(str(found).split())).replace("`", "'").replace("|", "¦")
    return Markup(f"`{plain}`")


def render(template: str, front_matter: str, facts: dict[str, Any]) -> str:
    """The card: ``front_matter`` between lines of ``---``, then the template with its facts."""
    body = _environment().get_template(template).render(**facts)
    body = re.sub(r"\n{3,}", "\n\n", body).strip()
    return f"---\n{front_matter.strip()}\n---\n\n{body}\n"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=False, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=lambda found: found if isinstance(found, Markup) or not isinstance(found, str)
        else escaped(found),
    )  # fmt: skip
    environment.filters.update(
        code=quoted, count=text.count, value=text.value, percent=_percent, size=text.size, seconds=text.seconds,
    )  # fmt: skip
    return environment


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 or share == 0 else f"{100 * share:.1f} %"
