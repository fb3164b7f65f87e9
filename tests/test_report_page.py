"""The report in a real browser."""

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from toys import write_config

from components.report import page_data, report
from components.run_dir import RunDir
from components.shards import pictures
from pipeline.cli import main


@pytest.fixture
def open_page(browser):
    """Return a function that opens a page; whatever it says on the console or asks of the network fails the test."""
    complaints = []

    def open_file(path: Path, **settings):
        page = browser.new_page(**settings)
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: None if request.url == path.as_uri() or request.url.startswith("data:")
            else complaints.append(request.url),
        )  # fmt: skip
        page.goto(path.as_uri())
        return page

    yield open_file
    assert not complaints


def read_csv(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def listed_paths(page):
    return sorted(page.locator("#images .path").all_inner_texts())


def click_through(page, run: RunDir):
    """Do what a reader does in every section and check it against the csv files."""
    predictions, mistakes = read_csv(run.predictions), read_csv(run.report / "mistakes.csv")
    for link in page.locator("nav a").all():
        link.click()
        assert page.locator(link.get_attribute("href")).is_visible()
    # Behind the cells: the tables' buttons, and the plot itself.
    for button in page.locator("[data-cell]").all()[:3]:
        button.click()
        actual, predicted = (cell.inner_text() for cell in button.locator("xpath=ancestor::tr/td").all()[:2])
        expected = sorted(row["path"] for row in mistakes if (row["actual"], row["label"]) == (actual, predicted))
        assert listed_paths(page) == expected and len(expected) == int(button.text_content())
        assert all(page.locator("#images img").evaluate_all("all => all.map((image) => image.naturalWidth > 0)"))
        page.keyboard.press("Escape")
        assert not page.locator("#images").is_visible()
    row = mistakes[0]
    page.locator("#confusion").scroll_into_view_if_needed()
    page.locator("#confusion .main-svg").first.wait_for()
    page.evaluate(
        "([x, y]) => document.getElementById('confusion').emit('plotly_click', {points: [{x, y}]})",
        [row["label"], row["actual"]],
    )
    assert row["path"] in listed_paths(page)
    page.locator("#close").click()
    # Ordered another way, the matrix has the same counts for the same names.
    counts = "() => { const [plot] = document.getElementById('confusion').data; return [plot.x, plot.text]; }"
    page.locator("[data-order=similar]").click()
    names, ordered = page.evaluate(counts)
    page.locator("[data-order=name]").click()
    by_name, plain = page.evaluate(counts)
    at = [by_name.index(name) for name in names]
    np.testing.assert_array_equal(np.array(plain)[np.ix_(at, at)], np.array(ordered))
    assert sorted(names) == sorted(by_name)
    # The table of classes.
    classes = read_csv(run.report / "classes.csv")
    rows = page.locator("#classes-table tbody tr")
    page.locator("[data-sort='2']").click()
    recalls = [float(text) for text in rows.locator("td:nth-child(3)").all_inner_texts()]
    assert recalls == sorted(recalls, reverse=True) and len(recalls) == len(classes)
    page.locator("[data-sort='2']").click()
    assert float(rows.first.locator("td:nth-child(3)").inner_text()) == min(recalls)
    page.locator("#filter").fill(classes[0]["label"].upper())
    assert classes[0]["label"] in rows.locator("visible=true").locator("td:first-child").all_inner_texts()
    assert rows.locator("visible=true").count() == sum(
        classes[0]["label"].lower() in row["label"].lower() for row in classes
    )
    page.locator("#filter").fill("")
    button = page.locator("[data-class='0']")
    button.click()
    name = button.text_content()
    expected = sorted(row["path"] for row in predictions if name in (row["actual"], row["label"]))
    assert set(listed_paths(page)) <= set(expected) and len(listed_paths(page)) == min(len(expected), 200)
    page.keyboard.press("Escape")
    # The map shows what is pointed at; the theme changes the page and its plots.
    page.locator("#map").scroll_into_view_if_needed()
    page.locator("#map .main-svg").first.wait_for()
    place = read_csv(run.audit / "map.csv")[0]
    page.evaluate(
        "(point) => document.getElementById('map').emit('plotly_hover', {points: [{customdata: point}]})",
        [place["path"], place["label"]],
    )
    assert page.locator("#map-picture").inner_text().splitlines()[-1] == place["path"]
    before = page.evaluate("getComputedStyle(document.querySelector('section')).backgroundColor")
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.querySelector('section')).backgroundColor") != before


def test_every_section_can_be_used(toy_run, open_page):
    click_through(open_page(toy_run.report / "index.html"), toy_run)


def test_the_switch_lays_the_evidence_over_the_pictures_and_takes_it_off(toy_run, open_page):
    page = open_page(toy_run.report / "index.html")
    sources = "all => all.map((image) => image.src)"
    pictures = page.locator("#mistakes figure > img")
    assert pictures.count() == len(read_csv(toy_run.report / "mistakes.csv")) > 0
    plain = pictures.evaluate_all(sources)
    nearest = page.locator("#mistakes .nearest img").evaluate_all(sources)
    laid = []
    for which in ("0", "1"):
        page.locator(f"#mistakes [data-where='{which}']").click()
        page.wait_for_function(
            "([seen]) => ![...document.querySelectorAll('#mistakes figure > img')].some(one => seen.includes(one.src))",
            arg=[plain + sum(laid, [])],
        )
        laid.append(pictures.evaluate_all(sources))
        assert page.locator("[aria-pressed=true][data-where]").count() == 2  # above the gallery too
    assert all(picture.startswith("data:image/jpeg") for picture in sum(laid, []))
    assert page.locator("#mistakes .nearest img").evaluate_all(sources) == nearest
    # The gallery's images are right or wrong; those of a right answer have one map.
    assert page.locator("#gallery img").first.get_attribute("src") != page.locator("#gallery img").first.get_attribute(
        "data-plain"
    )
    page.locator("#gallery [data-where='-1']").click()
    assert pictures.evaluate_all(sources) == plain


def test_a_place_with_evidence_for_the_class_is_red_and_one_against_it_blue(toy_run, open_page):
    page = open_page(toy_run.report / "index.html")
    pixels = page.evaluate(
        """async () => {
            const canvas = Object.assign(document.createElement("canvas"), { width: 90, height: 30 });
            canvas.getContext("2d").fillStyle = "#808080";
            canvas.getContext("2d").fillRect(0, 0, 90, 30);
            const image = Object.assign(new Image(), { src: canvas.toDataURL() });
            await layEvidence(image, { width: 3, maps: [btoa(String.fromCharCode(255, 128, 1))] }, 0);
            await image.decode();
            canvas.getContext("2d").drawImage(image, 0, 0);
            return [5, 45, 85].map((x) => [...canvas.getContext("2d").getImageData(x, 15, 1, 1).data]);
        }"""
    )
    (red, _, blue, _), neutral, (red_against, _, blue_against, _) = pixels
    assert red > 180 > 80 > blue and blue_against > 180 > 80 > red_against
    assert max(neutral[:3]) - min(neutral[:3]) < 30


def test_a_page_that_cannot_list_all_images_tells_how_many_there_are(
    toy_run, toy_config, open_page, tmp_path, monkeypatch
):
    monkeypatch.setattr(page_data, "MOST_IN_PAGE", 7)
    monkeypatch.setattr(report, "GALLERY_IMAGES", 0)  # pictures of mistakes alone
    monkeypatch.setattr(pictures, "MAX_SMALL", 0)
    run = RunDir(Path(shutil.copytree(toy_run.root, tmp_path / "run")))
    config = write_config(tmp_path / "c.yaml", **{**toy_config, "output_dir": str(run.root)})
    assert main(["run", str(config), "--only", "report"]) == 0
    page = open_page(run.report / "index.html")
    row = max(read_csv(run.report / "classes.csv"), key=lambda row: int(row["support"]))
    page.locator("[data-class]", has_text=row["label"]).click()
    count = sum(row["label"] in (found["actual"], found["label"]) for found in read_csv(run.predictions))
    assert page.locator("#images h2").inner_text().endswith(f": {count} images")
    shown = len(listed_paths(page))
    assert 0 < shown < count
    cards = page.locator("#images img").count(), page.locator("#images .missing").count()
    assert sum(cards) == shown and cards[1]
    assert page.locator("#images > p").inner_text().startswith(f"{shown} of them, by probability")


def test_it_works_by_keyboard_alone(toy_run, open_page):
    page = open_page(toy_run.report / "index.html")
    page.locator("[data-cell]").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#images").is_visible() and page.evaluate("document.activeElement.id") == "close"
    page.keyboard.press("Enter")
    assert not page.locator("#images").is_visible()


def test_a_dark_desktop_gets_a_dark_page_and_prints_a_light_one(toy_run, open_page):
    page = open_page(toy_run.report / "index.html", color_scheme="dark")
    colour = "getComputedStyle(document.querySelector('section')).backgroundColor"
    assert page.evaluate(colour) != "rgb(255, 255, 255)"
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(colour) == "rgb(255, 255, 255)"
    assert page.locator(".plot:not(.js-plotly-plot)").count() == 0
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(colour) != "rgb(255, 255, 255)"


def test_the_page_may_load_nothing_whatever_a_name_brings_it_to_do(toy_run, browser):
    page = browser.new_page()
    page.goto((toy_run.report / "index.html").as_uri())
    refused = page.evaluate(
        """() => new Promise(resolve => {
            document.addEventListener("securitypolicyviolation", event => resolve(event.effectiveDirective));
            Object.assign(new Image(), { src: "https://elsewhere.invalid/a.png" });
        })"""
    )
    assert refused == "img-src"


def test_names_stay_text_in_what_the_script_shows(tmp_path, toy_config, open_page):
    from toys import paint_images

    hostile = "<script>alert(1)<!-- {{7*7}}"
    images = paint_images(tmp_path / "images", per_class=20)
    (images / "cyan").rename(images / hostile)
    run = RunDir(tmp_path / "run")
    config = {**toy_config, "data": {"path": str(images)}, "output_dir": str(run.root)}
    assert main(["run", str(write_config(tmp_path / "c.yaml", **config))]) in (0, 3)
    page = open_page(run.report / "index.html")
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    page.locator("[data-class]", has_text=hostile).click()
    assert page.locator("#images h2").inner_text().startswith(hostile)


def test_the_report_of_caltech_101_can_be_used(open_page):
    if "TOPGRAFT_TEST_RUN" not in os.environ:
        pytest.skip("needs the run directory of configs/caltech101.yaml in TOPGRAFT_TEST_RUN")
    run = RunDir(Path(os.environ["TOPGRAFT_TEST_RUN"]))
    click_through(open_page(run.report / "index.html"), run)
