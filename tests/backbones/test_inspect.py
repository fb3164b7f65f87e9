import pytest
import tensorflow as tf

from components.backbones.spec import EMBEDDED, FROZEN, KERAS
from pipeline.cli import main


def test_the_list_has_every_name_and_loads_no_tensorflow(capsys):
    assert main(["backbones", "list"]) == 0
    output = capsys.readouterr().out
    for name in [*EMBEDDED, *FROZEN, *KERAS]:
        assert any(line.startswith(f"{name} ") for line in output.splitlines()), name


def test_show_prints_layers_with_shapes_and_writes_the_graph(tmp_path, capsys):
    text, events = tmp_path / "graph.pbtxt", tmp_path / "events"
    command = ["backbones", "show", "efficientnet_lite0", "--pbtxt", str(text), "--tensorboard", str(events)]
    assert main(command) == 0
    output = capsys.readouterr().out
    assert "input 224x224 pixels, bottleneck 1984 wide, 1000 own classes" in output
    assert any("block5" in line and "(None, 14, 14, 80)" in line for line in output.splitlines())
    assert "Conv2D" in output.split("operations:")[1]
    graph_def = tf.compat.v1.GraphDef()
    from google.protobuf import text_format

    text_format.Parse(text.read_text(), graph_def)
    assert {"image_bytes", "pixels", "bottleneck"} <= {node.name for node in graph_def.node}
    (file,) = events.iterdir()
    assert any(event.graph_def for event in tf.compat.v1.train.summary_iterator(str(file)))


def test_an_unknown_name_is_one_sentence_and_status_2(capsys):
    assert main(["backbones", "show", "inception_v5"]) == 2
    error = capsys.readouterr().err
    assert "the nearest are inception_v" in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["backbones"], ["backbones", "show"], ["classify", "x", "--top-k", "0"]])
def test_a_wrong_command_is_status_2(arguments, capsys):
    assert main(arguments) == 2
