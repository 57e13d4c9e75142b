"""A data set seen before it is trained on: what is expected of it, what lies there, and what of that is wrong."""
