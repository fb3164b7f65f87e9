"""Files in local folders or Cloud Storage, each written completely or not at all."""
