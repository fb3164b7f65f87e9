"""Topgraft in Python, for notebooks: run a pipeline and load its model, as the commands run and predict do."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from components.errors import UserError
from components.run_dir import RunDir

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from PIL.Image import Image

    from components.predict.predict import Classifier

    Picture = str | Path | bytes | np.ndarray | Image


@contextmanager
def _hide_notebook() -> Iterator[None]:
    """Hide the notebook from Beam, which loads scripts from the network into it and keeps temporary files there."""
    ipython = sys.modules.get("IPython")
    if not ipython:
        yield
        return
    former, ipython.get_ipython = ipython.get_ipython, lambda: None  # type: ignore[attr-defined]
    try:
        yield
    finally:
        ipython.get_ipython = former  # type: ignore[attr-defined]


@contextmanager
def _like_a_command() -> Iterator[None]:
    """Silence the libraries and raise errors as UserErrors, as the command line does; logging stays as it was."""
    from pipeline.cli import silence_libraries
    from pipeline.failures import describe_failure, describe_user_error, is_interrupt

    root = logging.getLogger()
    level = root.level
    with warnings.catch_warnings(), _hide_notebook():
        silence_libraries(verbose=False)
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if is_interrupt(error):
                raise KeyboardInterrupt from None
            message = describe_user_error(error) or describe_failure(error)
            if message is None:
                raise
            raise UserError(message) from error
        finally:
            root.setLevel(level)


def _plain(value: Any) -> Any:
    """Return a value of NumPy as Python's, and anything else, such as a Path, as text."""
    return value.item() if hasattr(value, "item") else str(value)


@dataclass(frozen=True)
class Run:
    """A finished run: its directory, accuracy on the test split, verdict, page of the report, and content of run.json.

    Without any limit in the config, the verdict is NOT GATED, and blessed is False.
    """

    folder: Path
    accuracy: float
    verdict: str
    blessed: bool
    report: Path
    record: dict[str, Any] = field(repr=False)

    @property
    def confusion(self) -> pd.DataFrame:
        """The number of test images by actual class, a row each, and predicted class, a column each."""
        import pandas as pd

        labels, table = list(self.record["classes"]), self._read_predictions()
        counts = pd.crosstab(table["actual"], table["predicted"])
        return counts.reindex(index=labels, columns=labels, fill_value=0)

    @property
    def mistakes(self) -> pd.DataFrame:
        """The test images with a wrong answer, the most confident first: path, actual, predicted, probability."""
        table = self._read_predictions()
        wrong = table[table["predicted"] != table["actual"]]
        return wrong.sort_values("probability", ascending=False, kind="stable", ignore_index=True)

    def _read_predictions(self) -> pd.DataFrame:
        import pandas as pd

        from components.storage.tables import read_csv

        table = pd.DataFrame(read_csv(RunDir(self.folder).predictions)).rename(columns={"label": "predicted"})
        return table[["path", "actual", "predicted", "probability"]].astype({"probability": float})


class Prediction(NamedTuple):
    """The most probable class of an image, and the probabilities of all classes, the most probable first.

    abstained is True where the model leaves the image unanswered.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    abstained: bool


@dataclass(frozen=True)
class Model:
    """A loaded model: the version folder of its export, and the names of its classes."""

    export: Path
    labels: list[str] = field(repr=False)
    _classifier: Classifier = field(repr=False)

    def predict(self, images: Iterable[Picture]) -> list[Prediction]:
        """Return the prediction for each image: a path, encoded bytes, a Pillow image, uint8[H, W, 3] or uint8[H, W].

        Raises UserError with the position, from 0, and the reason of each image that cannot be read.
        """
        from components.predict.predict import Answer, predict_files, rank_classes
        from components.storage.places import expand_home
        from components.terminal.text import join_names, printable

        shape = getattr(images, "shape", ())
        if not isinstance(images, Iterable) or isinstance(images, str | bytes) or len(shape) == 2 or shape[2:] == (3,):
            raise UserError("predict was given one image: give it a list of images, as in model.predict([image]).")
        given = (expand_home(str(image)) if isinstance(image, str | Path) else image for image in images)
        predictions, unread = [], []
        with _like_a_command():
            for number, (image, answer) in enumerate(predict_files(self._classifier.compute, given)):
                if isinstance(answer, Answer):
                    ranked = rank_classes(answer.probabilities, len(self.labels))
                    probabilities = {self.labels[index]: float(answer.probabilities[index]) for index in ranked}
                    label = self.labels[ranked[0]]
                    predictions.append(Prediction(label, probabilities[label], probabilities, bool(answer.abstained)))
                else:
                    path = f"'{image}', " if isinstance(image, str) else ""
                    unread.append(f"image {number} ({path}{answer})")
        if unread:
            total = len(predictions) + len(unread)
            raise UserError(
                printable(
                    f"{len(unread)} of {total} images cannot be read: {join_names(unread)}: leave out or replace "
                    f"what is in these positions, counted from 0."
                )
            )
        return predictions


def run(place: str | Path, overrides: Mapping[str, Any] | None = None, quiet: bool = False) -> Run:
    """Run the pipeline of images or of a config, as topgraft run does: skip finished stages, print the summary.

    overrides maps keys of the config to values, such as {"train.epochs": 20}; quiet prints only the verdict. Raises
    UserError. After an interrupt the same call continues where it stopped.
    """
    with _like_a_command():
        from components.storage.places import as_path, expand_home
        from pipeline.commands import run_place

        words = [
            f"{key}={json.dumps(value, default=_plain, ensure_ascii=False)}" for key, value in (overrides or {}).items()
        ]
        folder, record = run_place(as_path(expand_home(str(place))), words, (), quiet)
        report = folder.report / "index.html"
        return Run(folder.root, record["metrics"]["accuracy"], record["verdict"], record["blessed"], report, record)


def load(place: str | Path) -> Model:
    """Load the model of a run directory or its folder export, the newest blessed version, or of a version folder.

    Raises UserError.
    """
    with _like_a_command():
        from components.export.versions import find_export
        from components.predict.predict import load_export
        from components.storage.places import as_path, expand_home

        export = find_export(as_path(expand_home(str(place))))
        classifier = load_export(export)
        return Model(export, list(classifier.labels), classifier)
