"""The guard: every request for somebody else's URL is checked, bounded and polite. See docs/threat-model.md.

Imports only the standard library, so that img2dataset's worker processes start fast.
"""

from clipcap.dataset.guard.errors import Filtered, GuardError, NotFetched, OptedOut, Refused
from clipcap.dataset.guard.fetch import Answer, Guard
from clipcap.dataset.guard.policy import Policy

__all__ = ["Answer", "Filtered", "Guard", "GuardError", "NotFetched", "OptedOut", "Policy", "Refused"]
