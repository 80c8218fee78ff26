"""What is hooked: backward passes, optimizer steps, scalers, module calls; and who stands in for torch's functions."""
