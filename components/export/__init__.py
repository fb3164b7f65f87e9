"""Stage export: backbone, head and labels as one SavedModel; the command export."""
