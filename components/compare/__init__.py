"""Command compare, and what report and gate need of it: two models on the test images that both have."""
