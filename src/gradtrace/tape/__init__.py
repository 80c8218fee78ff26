"""Autograd's recorded graph: which ops there are, who owns them, what kind of factor each is."""
