"""gradtrace in the trainers that others have written: one thin file each over `watch`, imported only by who uses it.

Each takes the options of `gradtrace.watch`, and `stop_on="nonfinite"`: at the first NaN or Inf the step is left out and
the trainer is asked to stop by its own means, so that no checkpoint holds a spoilt weight.
"""
