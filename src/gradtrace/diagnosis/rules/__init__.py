"""One rule a file: what it looks for, why a healthy network does not show it, and its finding."""
