"""``gradtrace run``: an unmodified training script under watch, and otherwise as Python itself would run it."""
