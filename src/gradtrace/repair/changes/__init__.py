"""Changes, one kind a file: when each is tried, what it does to a copy, and the lines of code that do the same."""
