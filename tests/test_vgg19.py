"""T4's features: VGG19's fully connected layer. In a file of its own, for it is the slowest test by far."""

from conftest import check_bottlenecks_agree, paint_images, write_config

from components.features import RunDir
from pipeline.cli import main


def test_vgg19_at_fc1_runs_the_whole_pipeline(toy_config, tmp_path):
    images = paint_images(tmp_path / "images", per_class=10)
    values = {**toy_config, "output_dir": str(tmp_path / "run"), "data": {"path": str(images)}}
    values |= {"backbone": {"keras": "VGG19", "weights": "none", "layer": "fc1"}}
    values |= {"evaluate": {"thresholds": {"accuracy": 0.0}}, "beam": {"shards": 1}}
    assert main(["run", str(write_config(tmp_path / "c.yaml", **values))]) == 0
    assert '"dim": 4096' in (tmp_path / "run" / "run.json").read_text()
    check_bottlenecks_agree(RunDir(tmp_path / "run"), images)
