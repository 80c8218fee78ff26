"""Examining a live model: traces of its batches, a probe, a trial step, a trial run on a copy; then the judge."""
