"""Command curve: accuracy by number of training images per class."""
