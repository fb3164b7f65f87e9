"""Stages extract and reextract: every image to its bottleneck, once."""
