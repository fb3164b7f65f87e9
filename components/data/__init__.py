"""Which images there are: folders, manifests, TFRecord files, published data sets, class names."""
