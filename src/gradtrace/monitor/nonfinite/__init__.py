"""What is explained when a number is not finite: noticed, placed, replayed; a step later on a device that is ahead."""
