"""What networks are trained and judged on, behind one interface."""
