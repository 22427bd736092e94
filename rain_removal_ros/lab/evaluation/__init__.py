"""How good networks are: metrics, the weather to try them in, judges, probes, reports. No vehicle loads it."""
