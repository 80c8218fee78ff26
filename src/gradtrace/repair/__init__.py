"""Proof: a change is applied to copies, trained beside the unchanged network and a placebo, and judged by the loss."""
