"""Benchmarks: one registry of cases, providers side by side in one process, results as rows in files."""
