"""`gradtrace fix train.py`: the script itself is the trial, run again and again in processes and folders of its own."""
