"""TFRecord shards of images and of bottlenecks: names, spans, index, records."""
