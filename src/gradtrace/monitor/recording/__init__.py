"""What is kept and sent: the run file, findings as they come, sinks."""
