"""Whole traces of one step, one on each rank, made into one that stands for all of them.

pool      numbers that are merged over ranks, whatever they belong to
merge     which number of a trace is merged how
stitch    stages of a pipeline, joined
exchange  when all ranks have one
"""
