"""Stage audit: near-duplicates, doubtful labels, nearest images, map of the data."""
