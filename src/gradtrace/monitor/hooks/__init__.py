"""What is hooked: backward passes, optimizer steps, scalers, module calls; and what stands in for functions of torch."""
