"""How films become images."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from clipcap.config.base import Section


class FilmConfig(Section):
    max_gap_s: Annotated[float, Field(gt=0)] = 10.0
    """A shot that lasts longer has a frame at least this often (seconds), unless it looks the same."""
    min_shot_s: Annotated[float, Field(ge=0)] = 0.5
    """Cuts that follow one another faster (seconds) are one."""
    cut_ratio: Annotated[float, Field(gt=1)] = 3.0
    """A cut changes the picture this many times more than the frames around it do; smaller finds more cuts."""
    timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """Seconds without a decoded frame after which a film is given up."""
