"""The pipeline over the components: its configuration, its story, its command line."""
