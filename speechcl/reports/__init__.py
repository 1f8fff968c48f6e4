"""Reports: the results of runs as a web page and as a table for the terminal."""

from speechcl.reports.html import render_report
from speechcl.reports.summary import summary_rows, summary_table

__all__ = ["render_report", "summary_rows", "summary_table"]
