import json

from components.outcomes import Audit, Examples, Validation, Work
from components.report.data_health import collect_health
from components.storage.tables import read_csv


def test_the_health_of_a_run_agrees_with_its_files(toy_run):
    outcome = json.loads((toy_run.stages / "ingest.json").read_text())["outcome"]
    examples = Examples(**{**outcome, "work": Work()})
    audit = json.loads((toy_run.stages / "audit.json").read_text())["outcome"]
    health = collect_health(
        examples, Validation(Work(), ["noted"]), Audit(**{**audit, "work": Work(**audit["work"])}), toy_run
    )
    assert sum(health.reasons.values()) == examples.rejected == 1
    assert health.rejects[0]["key"] == "cyan/broken.jpg"
    assert health.warnings[-1] == "noted"
    pairs = read_csv(toy_run.audit / "near_duplicates.csv")
    assert health.near_duplicates_count == health.near_duplicates_listed == len(pairs)
    assert health.conflicts_count == len(health.conflicts) == 0
