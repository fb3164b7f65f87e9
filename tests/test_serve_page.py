import signal

import pytest
from conftest import encode_noise, paint_images, write_config
from test_serve import start_server

from pipeline.cli import main

MARKUP = "<script>document.title = 'changed'<"  # as a folder's name: no slash in it

DROP = """files => {
  const data = new DataTransfer();
  for (const [name, bytes] of files) data.items.add(new File([Uint8Array.from(bytes)], name));
  document.getElementById('choose').dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true}));
}"""


@pytest.fixture(scope="module")
def address(toy_config, tmp_path_factory):
    """A server of a model one of whose classes has the name of markup."""
    folder = tmp_path_factory.mktemp("page")
    images = paint_images(folder / "images", per_class=20)
    (images / "cyan").rename(images / MARKUP)
    thresholds = {"thresholds": {"accuracy": 0.0}}
    values = {**toy_config, "output_dir": str(folder / "run"), "data": {"path": str(images)}, "evaluate": thresholds}
    assert main(["run", str(write_config(folder / "page.yaml", **values))]) == 0
    process, address = start_server(folder / "run" / "export")
    yield address
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


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
