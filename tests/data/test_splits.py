"""Choosing by speaker: nobody is lost, nobody is on both sides, and a seed settles it."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechcl.data.splits import cap_per_speaker, split_by_speaker

ROWS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=60).map(
    lambda names: [{"ID": str(i), "speaker": name} for i, name in enumerate(names)]
)
FRACTIONS = st.dictionaries(
    st.sampled_from(["train", "valid", "test"]), st.floats(0.01, 1.0), min_size=1
)


@given(ROWS, FRACTIONS, st.integers(0, 9))
def test_split_is_disjoint_complete_and_repeatable(rows, fractions, seed):
    speakers = {row["speaker"] for row in rows}
    if len(speakers) < len(fractions):
        with pytest.raises(ValueError, match="speakers cannot fill"):
            split_by_speaker(rows, fractions, seed)
        return
    result = split_by_speaker(rows, fractions, seed)
    assert [{**row, "split": ""} for row in result] == [{**row, "split": ""} for row in rows]
    splits_of = {who: {row["split"] for row in result if row["speaker"] == who} for who in speakers}
    assert all(len(splits) == 1 for splits in splits_of.values())
    assert {row["split"] for row in result} == set(fractions)
    assert split_by_speaker(rows, fractions, seed) == result
    assert "split" not in rows[0]


def test_clip_counts_come_near_the_fractions_for_each_gender():
    rows = [
        {"ID": f"{i}-{j}", "speaker": str(i), "gender": "fm"[i % 2]}
        for i in range(40)
        for j in range(1 + i % 7)
    ]
    result = split_by_speaker(rows, {"train": 0.6, "valid": 0.1, "test": 0.3})
    counts = Counter((row["gender"], row["split"]) for row in result)
    for gender in "fm":
        total = sum(row["gender"] == gender for row in rows)
        for split, fraction in (("train", 0.6), ("valid", 0.1), ("test", 0.3)):
            assert abs(counts[gender, split] / total - fraction) < 0.04


def test_another_seed_splits_otherwise():
    rows = [{"ID": str(i), "speaker": str(i)} for i in range(20)]
    assert split_by_speaker(rows, seed=0) != split_by_speaker(rows, seed=1)


def test_clips_of_unknown_speakers_are_placed_one_by_one():
    rows = [{"ID": str(i), "speaker": "-"} for i in range(20)]
    counts = Counter(row["split"] for row in split_by_speaker(rows))
    assert counts == {"train": 13, "test": 7}
    assert len(cap_per_speaker(rows, 1)) == 20


@pytest.mark.parametrize("share", [0.0, -1.0, float("nan"), float("inf")])
def test_fractions_must_be_positive(share):
    with pytest.raises(ValueError, match="must be above 0"):
        split_by_speaker([{"ID": "a", "speaker": "a"}], {"train": share})


@given(ROWS, st.integers(1, 9), st.integers(0, 9))
def test_cap_keeps_as_many_as_allowed_in_order(rows, maximum, seed):
    kept = cap_per_speaker(rows, maximum, seed)
    before = Counter(row["speaker"] for row in rows)
    after = Counter(row["speaker"] for row in kept)
    assert after == {who: min(count, maximum) for who, count in before.items()}
    assert kept == [row for row in rows if row in kept]
    assert cap_per_speaker(rows, maximum, seed) == kept


def test_cap_below_one_is_refused():
    with pytest.raises(ValueError, match="maximum is 0"):
        cap_per_speaker([], 0)
