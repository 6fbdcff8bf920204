"""Pass rates of policies on held-out problems."""
