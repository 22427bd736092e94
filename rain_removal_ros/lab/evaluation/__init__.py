"""How good networks are: metrics, weather to try them in, judges, probes, reports. No vehicle loads it."""
