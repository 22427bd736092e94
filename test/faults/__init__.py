"""Faults done to the node on purpose, with `make faults`."""
