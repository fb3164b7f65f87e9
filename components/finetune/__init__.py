"""Stage finetune: the last layers of the backbone, on images."""
