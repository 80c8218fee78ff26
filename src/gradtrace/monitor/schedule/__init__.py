"""When: the wall clock, what watching may cost, rest, and what is due at a step."""
