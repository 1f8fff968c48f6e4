"""All figures at once equal each figure by itself."""

import json

import numpy as np
import pytest

from speechcl.metrics import act_dcf, cllr, eer, error_rates, min_dcf


def score_file(count=400, seed=0):
    """A shuffled score file of three attacks of different strength, with ties."""
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random(count) < 0.3, "bonafide", "spoof")
    attacks = rng.choice(["A17", "A18", "A19"], count)
    level = np.select([labels == "bonafide", attacks == "A18"], [2.0, 1.5], -1.0)
    return rng.normal(level, 1.0).round(1), labels, np.where(labels == "spoof", attacks, "-")


def singly(bonafide, spoof):
    return {
        "eer_percent": eer(bonafide, spoof)[0],
        "min_dcf": min_dcf(bonafide, spoof),
        "act_dcf": act_dcf(bonafide, spoof),
        "cllr_bits": cllr(bonafide, spoof),
        "bonafide_clips": len(bonafide),
        "spoof_clips": len(spoof),
    }


def test_every_figure_is_exactly_that_of_its_own_function():
    scores, labels, attacks = score_file()
    bonafide, spoof = scores[labels == "bonafide"], labels == "spoof"
    found = error_rates(scores, labels, attacks)
    assert found["pooled"] == singly(bonafide, scores[spoof])
    assert found["attacks"] == {
        name: singly(bonafide, scores[attacks == name]) for name in ("A17", "A18", "A19")
    }
    by_eer = {name: rates["eer_percent"] for name, rates in found["attacks"].items()}
    assert max(by_eer, key=by_eer.get) == "A18"


def test_lists_work_as_arrays_do_and_the_result_is_json():
    scores, labels, attacks = score_file(60)
    found = error_rates(scores.tolist(), labels.tolist(), attacks.tolist())
    assert found == error_rates(scores, labels, attacks)
    assert json.loads(json.dumps(found)) == found


def test_attacks_stand_in_the_order_of_the_file_and_may_be_left_out():
    scores, labels = [3.0, 0.0, 1.0, -1.0], ["bonafide", "spoof", "spoof", "spoof"]
    assert [*error_rates(scores, labels, ["-", "z", "a", "z"])["attacks"]] == ["z", "a"]
    assert error_rates(scores, labels)["attacks"] == {}


def test_misfits_raise_one_clear_line():
    with pytest.raises(ValueError, match="label 'fake' is unknown"):
        error_rates([1, 0], ["bonafide", "fake"])
    with pytest.raises(ValueError, match="2 labels but 1 attacks"):
        error_rates([1, 0], ["bonafide", "spoof"], ["lpc"])
    with pytest.raises(ValueError, match="spoof holds no scores"):
        error_rates([1, 0], ["bonafide", "bonafide"])
    with pytest.raises(ValueError, match="all 2 scores are 1"):
        error_rates([1, 1], ["bonafide", "spoof"])
