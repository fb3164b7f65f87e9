import pytest

from components.plan.trials import START, Timing, Trial
from components.plan.workload import Workload, count_units, fit_laws

SHARES = {"train": 0.5, "val": 0.25, "test": 0.25}
WORKLOAD = Workload(SHARES, lambda images: 4 if images == 500 else 1)


def test_training_takes_as_long_as_what_it_sees():
    # 500 of 1,000 images and 250 to validate, 4 times over, after all have been read once.
    assert count_units("train", 1000, WORKLOAD) == 1000 + 4 * (500 + 250)


def test_fine_tuning_sees_training_and_validation_images_in_each_epoch():
    tuned = Workload(SHARES, lambda images: 4, tuning_epochs=10)
    assert count_units("finetune", 1000, tuned) == 10 * 750
    assert count_units("reextract", 1000, tuned) == 1000


@pytest.mark.parametrize("stage", ["ingest", "validate", "extract", "evaluate"])
def test_stages_of_beam_go_by_images(stage):
    assert count_units(stage, 12345, WORKLOAD) == 12345


@pytest.mark.parametrize("stage", [START, "export"])
def test_some_stages_take_as_long_whatever_the_data(stage):
    assert count_units(stage, 10, WORKLOAD) == count_units(stage, 1e8, WORKLOAD)


@pytest.mark.parametrize("stage", ["audit", "report"])
def test_pictures_and_maps_are_bounded(stage):
    assert count_units(stage, 100, WORKLOAD) < count_units(stage, 1000, WORKLOAD)
    assert count_units(stage, 1e5, WORKLOAD) == count_units(stage, 1e8, WORKLOAD)


def test_the_parts_of_a_stage_are_found_again():
    def trial(images):
        pairs = images**2 / 2
        return Trial(
            images,
            2,
            48,
            {
                START: Timing(6.0, 4.0, 0),
                "ingest": Timing(5 + 0.002 * images, 4 + 0.003 * images, 1000 + 20 * images),
                "audit": Timing(1 + 0.01 * min(images, 1500) + 1e-6 * pairs, 2 + 2e-6 * pairs, 10 * images),
            },
        )

    laws = fit_laws([trial(300), trial(1500)], Workload(SHARES, lambda images: 4, (1e-6, 2e-6)))
    assert list(laws) == [START, "ingest", "audit"]
    assert laws["ingest"].seconds == pytest.approx((5, 0.002))
    assert laws["ingest"].core_seconds == pytest.approx((4, 0.003))
    assert laws["ingest"].written == pytest.approx((1000, 20))
    assert laws["audit"].seconds == pytest.approx((1, 0.01))
    assert laws["audit"].core_seconds.cost(1500) == pytest.approx(2)
    assert laws[START].seconds.cost(1) == pytest.approx(6)


def test_runs_without_core_seconds_tell_nothing_of_cores():
    timings = [Timing(10, 0.0, 5), Timing(20, 30.0, 10)]
    laws = fit_laws([Trial(100 * n, 2, 48, {"ingest": timing}) for n, timing in enumerate(timings, 1)], WORKLOAD)
    assert laws["ingest"].core_seconds.cost(200) == pytest.approx(30)
    old = fit_laws([Trial(100, 2, 48, {"ingest": timings[0]})], WORKLOAD)
    assert old["ingest"].core_seconds == (0, 0)
