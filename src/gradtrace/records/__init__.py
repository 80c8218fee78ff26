"""What the stages hand to each other: frozen records, free of torch, to and from JSON.

Measuring makes a `Trace` (in `trace`), judging makes a `Diagnosis` (in `finding`); a saved one can be judged and drawn
on a machine that never saw the model, nor torch.
"""
