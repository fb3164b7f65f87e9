"""The pipeline over the components: its configuration, its story, its command line, and its use from Python."""

from components.errors import UserError
from pipeline.api import Model, Prediction, Run, load, run

__all__ = ["Model", "Prediction", "Run", "UserError", "load", "run"]
