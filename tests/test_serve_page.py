import json
import shutil
import signal
from contextlib import contextmanager

import pytest
from servers import start_server
from toys import encode_noise, paint_images, write_config

from components.backbones.settings import Augment
from components.export.export import export_model
from components.export.settings import Abstain
from components.export.versions import list_versions
from components.outcomes import Bottlenecks, Examples, Head, Work
from components.run_dir import RunDir
from components.train.settings import Architecture
from pipeline.cli import main

MARKUP = "<script>document.title = 'changed'<"  # as a folder's name: no slash in it

DROP = """files => {
  const data = new DataTransfer();
  for (const [name, bytes] of files) data.items.add(new File([Uint8Array.from(bytes)], name));
  document.getElementById('choose').dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true}));
}"""


COPY = """async bytes => {
  const image = new Blob([Uint8Array.from(bytes)], {type: 'image/png'});
  await navigator.clipboard.write([new ClipboardItem({'image/png': image})]);
}"""


@contextmanager
def serving(export):
    """Yield the address of a server of an export, which ends with the block."""
    process, address = start_server(export)
    try:
        yield address
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def run_folder(toy_config, tmp_path_factory):
    """A finished run one of whose classes has the name of markup."""
    folder = tmp_path_factory.mktemp("page")
    images = paint_images(folder / "images", per_class=20)
    (images / "cyan").rename(images / MARKUP)
    thresholds = {"thresholds": {"accuracy": 0.0}}
    values = {**toy_config, "output_dir": str(folder / "run"), "data": {"path": str(images)}, "evaluate": thresholds}
    assert main(["run", str(write_config(folder / "page.yaml", **values))]) == 0
    return folder / "run"


def read_outcome(run, stage, kind):
    values = json.loads((run.stages / f"{stage}.json").read_text())["outcome"]
    return kind(**{**values, "work": Work(**values["work"])})


@pytest.fixture(scope="module")
def address(run_folder):
    with serving(run_folder / "export") as address:
        yield address


def test_dropped_images_show_label_bars_and_nearest_and_ask_no_other_host(address, browser):
    errors, asked = [], []
    page = browser.new_page()
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.evaluate(DROP, [[f"{number}.png", list(image)] for number, image in enumerate(encode_noise(2))])
    page.locator(".verdict").nth(1).wait_for(timeout=30_000)
    card = page.locator("figure").first
    labels = card.locator(".rank span:first-child").all_inner_texts()
    shares = [float(text.split()[0]) for text in card.locator(".rank span:last-child").all_inner_texts()]
    widths = card.locator(".bar div").evaluate_all("bars => bars.map(bar => parseFloat(bar.style.width))")
    assert sorted(labels) == sorted([MARKUP, "magenta", "yellow"])
    assert card.locator(".verdict").inner_text() == labels[0]
    assert shares == widths == sorted(shares, reverse=True)
    assert abs(sum(shares) - 100) < 0.5
    loaded = card.locator("img").evaluate_all("images => images.map(image => image.naturalWidth > 0)")
    assert loaded == [True] * 6  # the image itself and five of training
    assert page.title() == "toy - Topgraft"
    assert errors == []
    page.set_input_files("input[type=file]", {"name": "bad.png", "mimeType": "image/png", "buffer": b"a text"})
    page.wait_for_selector("figure .wrong", timeout=30_000)
    assert "not an image" in page.locator("figure .wrong").inner_text()
    page.close()
    assert all(url.startswith((address, "data:")) for url in asked)


def test_the_switch_lays_the_evidence_over_answers_of_before_and_after(address, browser):
    page = browser.new_page()
    page.goto(address)
    drop = [[f"{number}.png", list(image)] for number, image in enumerate(encode_noise(2))]
    page.evaluate(DROP, drop[:1])
    page.locator(".verdict").wait_for(timeout=30_000)
    picture = page.locator("figure > img")
    plain = picture.get_attribute("src")
    page.locator("#where").check()
    for _ in range(300):  # the page's policy forbids wait_for_function
        if picture.get_attribute("src") != plain:
            break
        page.wait_for_timeout(100)
    assert picture.get_attribute("src") != plain == picture.get_attribute("data-plain")
    page.evaluate(DROP, drop[1:])
    page.locator("figure > img[data-shown='0']").nth(1).wait_for(timeout=30_000)
    page.locator("#where").uncheck()
    assert picture.first.get_attribute("src") == plain
    page.close()


def test_an_image_pasted_from_the_clipboard_is_answered_as_a_chosen_one(address, browser):
    context = browser.new_context()
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address)
    page = context.new_page()
    page.goto(address)
    (image,) = encode_noise(1)
    page.set_input_files("input[type=file]", {"name": "chosen.png", "mimeType": "image/png", "buffer": image})
    page.locator(".verdict").first.wait_for(timeout=30_000)
    page.evaluate(COPY, list(image))
    page.keyboard.press("Control+V")
    page.locator(".verdict").nth(1).wait_for(timeout=30_000)
    ranks = [page.locator("figure").nth(place).locator(".rank").all_inner_texts() for place in (0, 1)]
    names = page.locator("figure > .name:last-child").all_inner_texts()
    context.close()
    assert ranks[0] == ranks[1] != []
    assert names == ["chosen.png", "image.png"]  # what Chromium calls an image without a file


def test_pasted_text_makes_no_card(address, browser):
    context = browser.new_context()
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address)
    page = context.new_page()
    page.goto(address)
    page.evaluate("navigator.clipboard.writeText('some words')")
    page.keyboard.press("Control+V")
    page.evaluate(COPY, list(encode_noise(1)[0]))
    page.keyboard.press("Control+V")  # and what comes after is answered
    page.locator(".verdict").wait_for(timeout=30_000)
    shown = page.locator("figure").count()
    context.close()
    assert shown == 1


def classify(page, address, image):
    """Show one image on the page; return the names and shares of its classes."""
    page.goto(address)
    page.set_input_files("input[type=file]", {"name": "1.png", "mimeType": "image/png", "buffer": image})
    page.locator(".verdict").wait_for(timeout=30_000)
    return page.locator(".rank").all_inner_texts()


def test_a_card_says_that_the_model_abstained_and_still_ranks_the_classes(address, run_folder, browser, tmp_path):
    run = RunDir(shutil.copytree(run_folder, tmp_path / "run"))
    stages = (("ingest", Examples), ("extract", Bottlenecks), ("train", Head))
    outcomes = [read_outcome(run, stage, kind) for stage, kind in stages]
    export_model(*outcomes, Architecture(), Augment(), Abstain(0.999), run)  # out of reach: it never answers
    (image,) = encode_noise(1)
    page = browser.new_page()
    answered = classify(page, address, image)
    assert page.locator("figure.unsure, figure .wrong").count() == 0
    with serving(list_versions(run.exports)[-1]) as abstaining:
        ranked = classify(page, abstaining, image)
    assert page.locator("figure.unsure .wrong").inner_text() == "abstained"
    assert ranked == answered != []
    page.close()
