import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.storage.tables import guard_cell, read_csv, restore_cell, write_csv


@pytest.mark.parametrize("text", ["=1+1", "+a", "-a", "@a", "\ta", "\ra", "\na", "'=a", "-1+2", "=", "-", "+1e5x"])
def test_what_a_spreadsheet_would_compute_begins_with_an_apostrophe(text):
    assert guard_cell(text) == "'" + text


@pytest.mark.parametrize("value", ["a=b", "1", "-1.5", "+2", "-1e-05", "-.5", "'a", "''", "", 3, -0.5, True, None])
def test_all_else_stays_as_it_is(value):
    assert guard_cell(value) is value


@given(st.text(alphabet="'=+-@\t1a", max_size=6))
def test_names_come_back(text):
    assert restore_cell(guard_cell(text)) == text


def test_a_table_comes_back_and_no_cell_of_it_is_a_formula(tmp_path):
    rows = [{"=path": "=cmd|x", "n": "-0.5"}, {"=path": '\'=y, "z"\n', "n": "é"}]
    write_csv(tmp_path / "a.csv", ["=path", "n"], [list(row.values()) for row in rows])
    assert read_csv(tmp_path / "a.csv") == rows
    with open(tmp_path / "a.csv", encoding="utf-8", newline="") as file:
        assert not any(cell.startswith("=") for row in csv.reader(file) for cell in row)
    (tmp_path / "empty.csv").write_text("")
    assert read_csv(tmp_path / "empty.csv") == []
