"""robots.txt as RFC 9309 reads it: the longest rule that matches decides; of two as long, the one that allows."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, unquote

MAX_BYTES = 500 * 1024
"""What is read of the file (RFC 9309, 2.5)."""
_MAX_RULES = 5000


@dataclass(frozen=True)
class Rules:
    """What one robots.txt says to one user agent."""

    rules: tuple[tuple[str, bool], ...] = ()
    """Patterns of paths, and whether they are allowed."""

    def allows(self, path: str) -> bool:
        path, longest, verdict = _normal(path), -1, True
        for pattern, is_allowed in self.rules:
            length = len(pattern)
            if (length > longest or (length == longest and is_allowed)) and _matches(pattern, path):
                longest, verdict = length, is_allowed
        return verdict


def parse(data: bytes, token: str) -> Rules:
    """The rules of the groups that name ``token``, else of the groups for "*"."""
    ours: list[tuple[str, bool]] = []
    everyones: list[tuple[str, bool]] = []
    is_named = is_ours = is_everyones = is_in_rules = False
    for line in data[:MAX_BYTES].decode("utf-8", "replace").lstrip("\ufeff").splitlines():
        name, colon, value = line.partition("#")[0].partition(":")
        name, value = name.strip().lower(), value.strip()
        if not colon:
            continue
        if name == "user-agent":
            if is_in_rules:  # a new group begins
                is_ours = is_everyones = is_in_rules = False
            is_ours |= value.lower() == token.lower()
            is_everyones |= value == "*"
            is_named |= is_ours
        elif name in ("allow", "disallow"):
            is_in_rules = True
            if not value:
                continue  # an empty rule matches nothing
            rule = (_normal(value), name == "allow")
            if is_ours and len(ours) < _MAX_RULES:
                ours.append(rule)
            if is_everyones and len(everyones) < _MAX_RULES:
                everyones.append(rule)
    return Rules(tuple(ours if is_named else everyones))


def _normal(path: str) -> str:
    """Percent-encoded in one way only, so that "%7E" and "~" are the same."""
    return quote(unquote(path, errors="replace"), safe="/*$?=&:;,@!'()+~[]")


def _matches(pattern: str, path: str) -> bool:
    """ "*" is any run of characters, "$" the end. Without backtracking: no pattern can make it slow."""
    is_whole = pattern.endswith("$")
    first, *rest = pattern.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    if not rest:
        return not is_whole or path == first
    position = len(first)
    for part in rest[:-1]:
        found = path.find(part, position)
        if found < 0:
            return False
        position = found + len(part)
    last = rest[-1]
    if is_whole:
        return path.endswith(last) and len(path) - len(last) >= position
    return path.find(last, position) >= 0
