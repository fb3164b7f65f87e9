"""The backbone as one frozen graph from image bytes to bottleneck: sources, preprocessing, engines."""
