"""How networks are made: samples, losses, the trainer and its recipes. No vehicle loads it."""
