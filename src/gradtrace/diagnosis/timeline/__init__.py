"""Judging a run over time: since which step, and what came before it."""
