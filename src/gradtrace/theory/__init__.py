"""The mathematics beside the measurement: backpropagation written out, activations under Gaussian inputs, mean field."""
