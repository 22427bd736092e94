"""Datasets, losses and the trainer. Nothing that a vehicle loads imports this."""
