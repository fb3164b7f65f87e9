"""Command serve: the REST interface of TensorFlow Serving, and a page."""
