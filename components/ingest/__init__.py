"""Stage ingest: image files to shards of checked, split, deduplicated examples."""
