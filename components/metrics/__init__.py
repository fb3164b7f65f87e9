"""Numbers about predictions, in numpy: calibration, confusion, intervals."""
