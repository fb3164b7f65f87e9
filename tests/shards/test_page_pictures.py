import base64
import io

from PIL import Image
from toys import ingest, paint_images

from components.images.thumbnail import THUMBNAIL
from components.run_dir import RunDir
from components.shards import page_pictures
from components.shards.page_pictures import SMALL, collect_pictures


def open_uri(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))


def test_pictures_come_large_before_small_within_the_budget(tmp_path, options, monkeypatch):
    run = RunDir(tmp_path / "run")
    examples = ingest(paint_images(tmp_path / "images", per_class=12), run, options)
    keys = sorted(line.split(",")[0] for line in run.images.read_text().splitlines()[1:])
    large, small = keys[:3], [*keys[2:20], "no/such.jpg"]
    pictures = collect_pictures(large, small, run.examples, examples.shards)
    assert pictures.keys() == set(keys[:20])
    assert all(max(open_uri(pictures[key]).size) > SMALL for key in large)
    assert all(max(open_uri(pictures[key]).size) <= SMALL < THUMBNAIL for key in small[1:-1])

    budget = sum(len(pictures[key]) for key in keys[:7])
    monkeypatch.setattr(page_pictures, "BUDGET", budget)
    fewer = collect_pictures(large, small, run.examples, examples.shards)
    assert set(keys[:7]) <= fewer.keys() and sum(map(len, fewer.values())) <= budget

    monkeypatch.setattr(page_pictures, "MOST_SMALL", 2)
    assert collect_pictures(large, small, run.examples, examples.shards).keys() == set(keys[:5])
