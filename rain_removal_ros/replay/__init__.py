"""Plays a bag to the live node, and records or shows what comes back."""
