"""Where else do the numbers of a watched run go? TensorBoard, Weights & Biases, MLflow, trackio, or your own function.

Each tracker is imported when it is used, and asked for nothing else but to keep our numbers: no sink touches the
tracker's current run, the script's output or its random state.
"""
