"""Reports of searches: ``report.json``, ``report.html``, plots, and the rows of the table at the end of a run."""

from snn_sparse.reports.compare import HEADER, table_rows
from snn_sparse.reports.page import write_report
from snn_sparse.reports.summary import summarise, write_summary
from snn_sparse.tickets.layer_summary import layer_summary

__all__ = ["HEADER", "layer_summary", "summarise", "table_rows", "write_report", "write_summary"]
