"""Whether a container is well: clipcap is whole, the lake can be written to, the server answers where one is named.

Exits 0 or 1 and prints one line; used by the Dockerfile and by probes.
"""

from __future__ import annotations

import base64
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path


def problem() -> str:
    """What is wrong, "" where nothing is."""
    try:
        from clipcap.resources import resource

        resource("sql")
    except (ImportError, FileNotFoundError) as error:
        return f"the installation is not whole: {error}"
    lake = os.environ.get("CLIPCAP_DATA_DIR", "")
    if lake and "://" not in lake and not os.access(Path(lake), os.W_OK):
        return f"the lake {lake} cannot be written to"
    api = os.environ.get("PREFECT_API_URL", "")
    if not api:
        return ""
    request = urllib.request.Request(f"{api.rstrip('/')}/health")
    if password := os.environ.get("PREFECT_API_AUTH_STRING", ""):
        request.add_header("Authorization", f"Basic {base64.b64encode(password.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=20):
            return ""
    except urllib.error.HTTPError as error:
        return f"the Prefect server answers {error.code}"
    except (OSError, ValueError) as error:
        return f"the Prefect server does not answer: {type(error).__name__}"


if __name__ == "__main__":
    found = problem()
    print(found or "well")
    sys.exit(1 if found else 0)
