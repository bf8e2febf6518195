"""What limits an embedding: images a second of each part, counted apart."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field


@dataclass
class Rates:
    """One shard's progress. Seconds are those in which a part worked, not those in which it waited."""

    images: int
    """Unique images of the shard."""
    known: int = 0
    """Of these, how many another shard had embedded before."""
    decoded: int = 0
    decode_s: float = 0.0
    """Processor seconds, shared out among the workers."""
    forward: int = 0
    forward_s: float = 0.0
    write_s: float = 0.0
    """Files written, hashed and flushed."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _started: float = field(default_factory=time.perf_counter, repr=False)

    def count(self, decoded: int = 0, decode_s: float = 0.0, forward: int = 0, forward_s: float = 0.0) -> None:
        with self._lock:
            self.decoded += decoded
            self.decode_s += decode_s
            self.forward += forward
            self.forward_s += forward_s

    @property
    def done(self) -> int:
        return self.known + self.forward

    def facts(self) -> dict[str, float | int]:
        """For the entry's meta."""
        return {
            "encoded": self.forward, "known": self.known, "seconds": round(time.perf_counter() - self._started, 4),
            "decode_s": round(self.decode_s, 4), "forward_s": round(self.forward_s, 4),
            "write_s": round(self.write_s, 4),
        }  # fmt: skip


def describe(facts: dict[str, float]) -> str:
    """Images a second of each part, and which one limits: "decode 410/s · forward 95/s · write 21,000/s …".

    Args:
        facts: ``encoded``, ``decode_s``, ``forward_s`` and ``write_s``, of one shard or summed over several. A part of
            no seconds has not begun, and is left out.
    """
    count = facts["encoded"]
    if not count:
        return "nothing to encode"
    rates = {part: count / facts[f"{part}_s"] for part in ("decode", "forward", "write") if facts[f"{part}_s"] > 0}
    if not rates:
        return "nothing measured yet"
    limit = min(rates, key=lambda part: rates[part])
    return " · ".join(f"{part} {rate:,.0f}/s" for part, rate in rates.items()) + f" · limited by {limit}"
