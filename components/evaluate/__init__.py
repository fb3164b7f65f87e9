"""Stage evaluate: the exported model on the test split, sliced, and its blessing."""
