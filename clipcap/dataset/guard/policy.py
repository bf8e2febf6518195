"""What the guard allows: plain values that travel to every worker process as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipcap.config import DownloadConfig

DEFAULT_PORTS = (80, 443, 8080, 8443)


@dataclass(frozen=True)
class Policy:
    """As in ``[download]`` of the configuration; see there for what each field means."""

    timeout_s: float = 10.0
    deadline_s: float = 60.0
    retries: int = 2
    redirects: int = 5
    max_bytes: int = 32 * 2**20
    ports: tuple[int, ...] = DEFAULT_PORTS
    user_agent: str = "clipcap"
    robots: bool = True
    opt_out_headers: bool = True
    host_connections: int = 8
    host_rate: float = 30.0
    allow_hosts: tuple[str, ...] = ()
    served: dict[str, str] = field(default_factory=dict)
    """What this run serves itself: "host:port" of URLs → "127.0.0.1:port" where it listens."""
    names: dict[str, list[str]] = field(default_factory=dict)
    """Answers for names, as in a hosts file; their addresses are checked like any other."""

    @classmethod
    def of(cls, config: DownloadConfig, served: Mapping[str, str] | None = None) -> Policy:
        """Of one shard's download; what counts per host is shared among all processes that run at the same time."""
        shares = config.processes * config.parallel_shards
        return cls(
            config.timeout_s, config.deadline_s, config.retries, config.redirects, config.max_image_bytes,
            tuple(config.ports), config.user_agent, config.robots, config.opt_out_headers,
            max(config.host_connections // shares, 1), config.host_rate / shares, tuple(config.allow_hosts),
            dict(served or {}),
        )  # fmt: skip

    def dumps(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> Policy:
        values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in json.loads(text).items()}
        return cls(**values)
