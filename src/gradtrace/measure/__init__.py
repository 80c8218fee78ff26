"""From a tape to numbers: gradients reduced on their device, one transfer to the host, paths and budgets."""
