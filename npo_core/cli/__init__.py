"""The `npo` command: one module a command, what runs and what shows together."""
