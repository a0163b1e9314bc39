"""The measure of the scrubber: texts are labelled rightly, outcomes are counted rightly, figures are those recorded."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from fusion_alpha import pii, pii_check, pii_forms
from fusion_alpha.pii_check import Labelled

ROOT = Path(__file__).parents[1]
RECORDED = json.loads((ROOT / "metrics/pii.json").read_text())


def test_the_same_texts_at_every_call_and_each_holds_its_identifier():
    for forms, harmless in pii_check.HALVES.values():
        first = list(pii_check.labelled(forms, harmless, 3))
        assert first == list(pii_check.labelled(forms, harmless, 3))
        assert len(first) == 3 * (sum(map(len, forms.values())) + len(harmless))
        for case in first:
            assert bool(case.value) == (case.kind != pii_check.HARMLESS), case.form
            assert not re.search(r"[«»]|\\{\\w", case.text), case.text


def test_no_form_is_in_both_halves():
    held_out = {form for forms in pii_forms.HELD_OUT.values() for form in forms} | set(pii_forms.HELD_OUT_HARMLESS)
    known = {form for forms in pii_forms.DEVELOPMENT.values() for form in forms} | set(pii_forms.DEVELOPMENT_HARMLESS)
    shared = held_out & known
    assert shared <= {"«{n}{d2}-{n}{d2}-{d4}»"}  # plain ones, which any list has


def test_check_digits_are_right_and_those_of_the_harmless_wrong():
    cases = list(pii_check.labelled({"accounts": pii_forms.HELD_OUT["accounts"]}, [], 20))
    assert all(pii.is_card(case.value) or pii.is_iban(case.value) for case in cases)
    wrong = list(pii_check.labelled({}, ["{notcard}"], 20))
    assert not any(pii.is_card(case.before + case.after.split(",")[0]) for case in wrong if case.text.isdigit())


@pytest.mark.parametrize(
    ("value", "scrubbed", "gone"),
    [
        ("jane@corp.com", "ask <email> now", True),
        ("jane@corp.com", "ask jane<email> now", False),
        ("u/jane_doe", "ask @user_doe now", False),
        ("+44 20 7946 0958", "ask +44 <phone> now", True),
        ("06 12 34 56 78", "ask 06 12 34 56 78 now", False),
        ("06 12 34 56 78", "ask <phone> 56 78 now", False),
    ],
)
def test_what_counts_as_removed(value, scrubbed, gone):
    assert pii_check.removed(Labelled("x", "x", "ask ", value, " now"), scrubbed) is gone


def test_recall_precision_and_harmless_are_counted_by_hand(monkeypatch):
    """A scrubber that takes every @ for a handle and finds nothing else."""
    monkeypatch.setattr(pii, "KINDS", ("handles",))
    monkeypatch.setattr(pii, "scrub_counted", lambda text: (re.sub(r"@\w+", "@user", text), (text.count("@"),)))
    forms = {"handles": ["«@{first}»", "«u/{first}»"], "emails": ["«{first}@{word}.com»"], "names": ["«{First}»"]}
    found = pii_check.measure(forms, ["@2pm", "a"], 4)
    handles = found["kinds"]["handles"]
    assert (handles["recall"], handles["forms_found"], handles["missed"]) == (0.5, 1, ["«u/{first}»"])
    assert (handles["replaced"], handles["precision"]) == (12, 0.333333)  # of handles, addresses and a price
    assert (found["kinds"]["names"]["sought"], found["kinds"]["names"]["recall"]) == (False, 0.0)
    assert found["harmless"]["changed"] == ["@2pm"]


def test_wilson_interval_has_its_known_values():
    assert pii_check.wilson(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)  # Brown, Cai and DasGupta (2001)
    assert pii_check.wilson(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


def test_counts_hold_no_text():
    found = pii_check.counts(pd.Series(["@jane is up", "@jane is up", "call 212-555-0123", "quiet"], dtype="str"))
    assert (found["texts"], found["distinct_texts"], found["texts_changed"]) == (4, 3, 3)
    assert (found["replaced"]["handles"], found["replaced"]["phones"]) == (2, 1)
    assert found["texts_with_a_mark_before"]["at_sign_before_a_letter"] == 2
    assert not any(found["texts_with_a_mark_after"].values())
    assert all(isinstance(value, int | dict) for value in found.values())


def test_recorded_figures_are_those_of_the_present_scrubber():
    for name, (forms, harmless) in pii_check.HALVES.items():
        assert RECORDED[name] == pii_check.measure(forms, harmless, RECORDED["texts_of_a_form"]), name


def test_what_is_sought_is_found_as_often_as_was_reached():
    for kind in pii.KINDS:
        assert RECORDED["development"]["kinds"][kind]["recall"] == 1.0
        assert RECORDED["held_out"]["kinds"][kind]["recall"] > 0.8
    assert RECORDED["held_out"]["harmless"]["forms_changed"] <= 3
    ways = RECORDED["libphonenumber"]["ways"]
    assert ways["international"]["recall"] > 0.95
    assert ways["national, after Tel."]["recall"] > 0.9
