"""A training on several ranks: what this one gives of its steps, and the rows made of what all of them gave."""
