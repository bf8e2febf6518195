"""What a stored configuration says that the defaults do not."""

from __future__ import annotations

from typing import Any

from clipcap.config.base import Section


def changed_settings(config: dict[str, Any], usual: Section) -> dict[str, Any]:
    """Settings that are not as they come, by their dotted names.

    Args:
        config: a section as JSON, as runs and models store it; older ones may lack keys, or have some that are gone.
        usual: the same section with its defaults.
    """
    defaults = _flat(usual.model_dump(mode="json"))
    return {name: value for name, value in _flat(config).items() if defaults.get(name, value) != value}


def _flat(section: dict[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in section.items():
        found |= _flat(value, f"{before}{name}.") if isinstance(value, dict) and value else {before + name: value}
    return found
