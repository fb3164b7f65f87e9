"""Stage report: the page of a run and the model card."""
