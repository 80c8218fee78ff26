"""Losses that the user wrote out: which known one they are equal to, and what that is held against."""
