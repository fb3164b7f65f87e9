"""Command predict: an exported model on files, here or as a Beam job."""
