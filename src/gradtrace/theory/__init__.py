"""The mathematics beside the measurement: backpropagation written out, Gaussian moments, mean field."""
