"""SQL over the lake: a DuckDB catalog derived from one generation, read-only queries, and checks."""

from clipcap.warehouse.catalog import build_catalog, connect, ensure_catalog
from clipcap.warehouse.checks import CheckResult, check_catalog, run_checks
from clipcap.warehouse.queries import View, list_views, query

__all__ = [
    "CheckResult",
    "View",
    "build_catalog",
    "check_catalog",
    "connect",
    "ensure_catalog",
    "list_views",
    "query",
    "run_checks",
]
