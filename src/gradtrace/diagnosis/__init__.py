"""From numbers to findings: one rule a file, each threshold with its unit and source, the root cause first."""
