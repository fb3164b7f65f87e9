"""The canonical backbone, one frozen graph from image bytes to bottleneck: sources, preprocessing, engines."""
