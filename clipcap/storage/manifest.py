"""What exists: entries recorded by stages, and generations that publish them.

An **entry** is one finished output of one stage: its cache key, its files with hash and size, its row counts. It is
recorded (``manifests/pending/<name>.json``) as soon as its files stand, so a killed run loses no finished shard. A
**generation** (``manifests/<n>.json``, named by ``CURRENT``) is what SQL shows: a commit creates the next number
exclusively, so two runs never overwrite each other; the loser reads again and merges.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime

from pydantic import ValidationError

from clipcap.errors import DataError, StaleDecision
from clipcap.storage.commit import commit_bytes
from clipcap.storage.entries import pending_file, read_pending, stands
from clipcap.storage.lake import Lake
from clipcap.storage.migrations import FORM, form_of, upgrade
from clipcap.storage.records import Decision, Entry, Generation, Promotion, Run


def read_current(lake: Lake) -> Generation:
    """The generation that CURRENT names; an empty one in a new lake.

    Raises:
        DataError: CURRENT or the manifest cannot be read.
    """
    number = _current_number(lake)
    return read_generation(lake, number) if number else Generation()


def roll_forward(lake: Lake) -> None:
    """Lets CURRENT name the newest generation: a run may have been killed after its manifest and before CURRENT.

    Raises:
        DataError: CURRENT or a later manifest cannot be read; CURRENT stays.
        StorageError: the lake is on a disk that is full or read-only.
    """
    newest = start = _current_number(lake)
    while lake.exists(lake.manifest(newest + 1)):
        newest = read_generation(lake, newest + 1).number
    if newest > start:
        _point_current_at(lake, newest)


def _current_number(lake: Lake) -> int:
    try:
        return int(lake.read_bytes(lake.current))
    except FileNotFoundError:
        return 0
    except ValueError:
        raise DataError(
            f"{lake.current} does not hold a number: put the number of the newest file of {lake.manifests} into it"
        ) from None


def parse_generation(data: bytes) -> Generation:
    """A manifest of this form or an older one.

    Raises:
        DataError: it is of a newer form.
        ValueError: it is no manifest.
    """
    form = form_of(data)
    if form == FORM:
        return Generation.model_validate_json(data)
    if form > FORM:
        raise DataError(f"it was written by a newer clipcap (form {form}, this one knows {FORM}): update clipcap")
    try:
        return Generation.model_validate(upgrade(json.loads(data), form))
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"no manifest: {error}") from None


def read_generation(lake: Lake, number: int) -> Generation:
    """One generation, whichever form its manifest has.

    Raises:
        DataError: the manifest is missing, damaged, or of a newer clipcap.
    """
    file = lake.manifest(number)
    try:
        return parse_generation(lake.read_bytes(file))
    except DataError as error:
        raise DataError(f"the manifest {file} cannot be read: {error}") from None
    except FileNotFoundError:
        raise DataError(
            f"the manifest {file} is missing, which {lake.current} names: put the number of the newest file of "
            f"{lake.manifests} into {lake.current}; where there is none, delete {lake.current}, and the next run "
            "publishes what is finished"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(
            f"the manifest {file} cannot be read ({type(error).__name__}): move it away and put an older number of "
            f"{lake.manifests} into {lake.current} to go back to that generation"
        ) from None


class EntryIndex:
    """Answers "is this already done?" from the current generation and all recorded entries, read once."""

    def __init__(self, lake: Lake) -> None:
        self.lake = lake
        if lake.mirror:
            lake.mirror.refresh()
        pending = read_pending(lake)  # first: what is published meanwhile moves from here to there
        self.generation = _looked_at[str(lake.root)] = read_current(lake)
        self._entries = {(e.id, e.key): e for e in self.generation.entries.values()}
        self._entries.update({(e.id, e.key): e for e in pending})
        self._of_stage: dict[str, list[Entry]] = {}
        self._of_batch: dict[str, dict[str, list[Entry]]] = {}

    def find(self, entry_id: str, key: str) -> Entry | None:
        """The entry with this id and key, if each of its files still stands as it was recorded."""
        entry = self._entries.get((entry_id, key))
        return entry if entry is not None and stands(self.lake, entry) else None

    def of_stage(self, stage: str) -> list[Entry]:
        """Entries of one stage whose files stood when it was first asked for, ordered by id."""
        if stage not in self._of_stage:
            found = [e for e in self._entries.values() if e.stage == stage and stands(self.lake, e)]
            self._of_stage[stage] = sorted(found, key=lambda entry: entry.id)
        return list(self._of_stage[stage])

    def of_batch(self, stage: str, batch_id: str) -> list[Entry]:
        """Those of :meth:`of_stage` that are of one batch."""
        if stage not in self._of_batch:
            groups: dict[str, list[Entry]] = {}
            for entry in self.of_stage(stage):
                groups.setdefault(entry.meta.get("batch_id", ""), []).append(entry)
            self._of_batch[stage] = groups
        return list(self._of_batch[stage].get(batch_id, []))

    def is_published(self, entry: Entry) -> bool:
        """Whether the current generation holds this very entry."""
        known = self.generation.entries.get(entry.id)
        return known is entry or known == entry


_looked_at: dict[str, Generation] = {}
"""The generation that this process saw last, by the lake's root."""


def find_recorded(lake: Lake, entry_id: str, key: str) -> Entry | None:
    """The entry if it is there now: another run may have made it since this one read its index."""
    entry = None
    try:
        entry = Entry.model_validate_json(lake.read_bytes(pending_file(lake, entry_id, key)))
    except (OSError, ValidationError):
        before = _looked_at.get(str(lake.root))
        if before is None or before.number != _current_number(lake):
            _looked_at[str(lake.root)] = before = read_current(lake)
        entry = before.entries.get(entry_id)
    return entry if entry is not None and entry.key == key and stands(lake, entry) else None


def commit_generation(
    lake: Lake,
    entries: Iterable[Entry] = (),
    run: Run | None = None,
    promotion: Promotion | Callable[[Generation], Promotion | None] | None = None,
    drop: Collection[str] = (),
    decision: Decision | None = None,
) -> Generation:
    """Publishes entries as the next generation.

    An entry replaces one with the same id; ``drop`` names ids that are left out from now on. The new manifest is
    created exclusively; where another process was faster, its generation is read and merged into. Returns the current
    generation unchanged where nothing is new.

    Args:
        promotion: or a function that is asked anew for each generation that this one may follow, so that what it says
            is true of the one that it does follow; what it raises is raised, and nothing is published.

    Raises:
        StaleDecision: another model is in production than the one that ``decision`` compared with.
    """
    entries = list(entries)
    while True:
        roll_forward(lake)
        base = read_current(lake)
        kept = {id: entry for id, entry in base.entries.items() if id not in drop}
        merged = kept | {entry.id: entry for entry in entries}
        if merged == base.entries and run is None and promotion is None and decision is None:
            return base
        if decision is not None and decision.production_model_id != base.production_model_id:
            raise StaleDecision(
                f"{decision.candidate_model_id} was compared with {decision.production_model_id or 'no model'}, and by "
                f"now {base.production_model_id} is in production: compare again"
            )
        promoted = promotion(base) if callable(promotion) else promotion
        if promoted is not None:
            promoted = promoted.model_copy(update={"previous_model_id": base.production_model_id})
        new = Generation(
            number=base.number + 1,
            created_at=datetime.now(UTC),
            entries=merged,
            runs=base.runs + ([run] if run else []),
            promotions=base.promotions + ([promoted] if promoted else []),
            decisions=base.decisions + ([decision] if decision else []),
            migrations=base.migrations,
        )
        if commit_bytes(new.model_dump_json(indent=1).encode(), lake.manifest(new.number), exclusive=True):
            break
    _point_current_at(lake, new.number)
    lake.delete_all(pending_file(lake, entry.id, entry.key) for entry in entries)
    return new


def _point_current_at(lake: Lake, number: int) -> None:
    """Moves CURRENT, never back: another process may have published a later generation since ours was created.

    Whoever creates a manifest moves CURRENT afterwards, so if no later one exists after our own move, none is undone.
    """
    while True:
        commit_bytes(str(number).encode(), lake.current)
        if not lake.exists(lake.manifest(number + 1)):
            return
        number += 1
