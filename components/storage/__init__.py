"""Where bytes lie: local files or Cloud Storage, written whole or not at all."""
