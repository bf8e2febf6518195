"""The report: one self-contained HTML file for a run."""

from clipcap.report.html import render_report

__all__ = ["render_report"]
