"""Latency and memory of networks, backends and the node."""
