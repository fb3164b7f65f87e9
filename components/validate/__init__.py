"""Stage validate: statistics and anomalies of the examples, and the gate on them."""
