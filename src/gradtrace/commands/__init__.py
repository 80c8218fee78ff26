"""The command line, the only place that prints: one module a command (parse, call, print), found when asked for."""
