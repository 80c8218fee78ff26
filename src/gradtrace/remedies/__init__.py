"""What to change, cause by cause."""
