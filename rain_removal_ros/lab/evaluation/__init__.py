"""Metrics, reports and benchmarks. Nothing that a vehicle loads imports this."""
