"""Command plan: time and cost of a run, estimated from small runs."""
