"""Finished searches beside the published ones: the table, the paper's findings as checks, what the masks are like."""
