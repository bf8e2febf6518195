"""What ``clipcap doctor`` looks at: known traps of the stack, the machine, the lake. Each check says the mend."""

from __future__ import annotations

from clipcap.doctor.finding import Finding, run_checks
from clipcap.doctor.installation import INSTALLATION
from clipcap.doctor.lake import checks_of_lake
from clipcap.doctor.machine import MACHINE

__all__ = ["INSTALLATION", "MACHINE", "Finding", "checks_of_lake", "run_checks"]
