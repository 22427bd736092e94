"""The node, its topics, messages, parameters and diagnostics, and what its clients are made of."""
