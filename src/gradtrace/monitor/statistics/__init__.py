"""What is counted at a step: norms of gradients and weights, updates, and their way from the device to the host."""
