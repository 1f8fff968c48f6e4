"""Whose clips are used, and on which ones a voice is tested."""

from collections import Counter

import pytest

from speechcl.data.voice_corpora import choose_speakers, deal_clips, describe_voices, keep_pairs


def clips(**counts):
    return [
        {"ID": f"{name}{number:03d}", "speaker": name, "split": ""}
        for name, count in counts.items()
        for number in range(count)
    ]


def speakers(rows):
    return list(dict.fromkeys(row["speaker"] for row in rows))


def splits(rows):
    return Counter((row["speaker"], row["split"]) for row in rows)


# ---- who
def test_speakers_are_chosen_by_name_in_that_order():
    rows = clips(a=2, b=1, c=2)
    assert [row["ID"] for row in choose_speakers(rows, ["c", "a"])] == [
        *("c000", "c001", "a000", "a001")
    ]
    assert speakers(choose_speakers(rows, "b")) == ["b"]
    assert choose_speakers(rows) == rows
    numbered = [{**row, "speaker": "84"} for row in clips(a=1)]
    assert len(choose_speakers(numbered, [84])) == 1


def test_so_many_speakers_are_drawn_by_the_seed():
    rows = clips(**dict.fromkeys("abcdefgh", 2))
    drawn = [set(speakers(choose_speakers(rows, count))) for count in (2, 4, 8)]
    assert [len(one) for one in drawn] == [2, 4, 8]
    assert drawn[0] < drawn[1] < drawn[2]
    assert len({tuple(speakers(choose_speakers(rows, 3, seed))) for seed in range(5)}) > 1


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (0, "speakers is 0: set it from 1 to 2"),
        (3, "speakers is 3: set it from 1 to 2"),
        (["p22"], "no speaker 'p22': did you mean p22[56] or p22[56]"),
    ],
)
def test_speakers_that_are_not_there_are_refused(wanted, message):
    with pytest.raises(ValueError, match=message):
        choose_speakers(clips(p225=2, p226=2), wanted)


# ---- which
def test_a_share_of_each_speaker_is_dealt_but_two_at_least():
    rows = deal_clips(clips(a=40, b=10, c=4, d=3, e=1), test_share=0.1)
    assert splits(rows) == {
        ("a", "train"): 36,
        ("a", "test"): 4,
        ("b", "train"): 8,
        ("b", "test"): 2,
        ("c", "train"): 2,
        ("c", "test"): 2,
        ("d", "train"): 3,
        ("e", "train"): 1,
    }
    assert splits(deal_clips(clips(a=5), test_share=0.9))["a", "train"] == 2


def test_the_split_depends_on_the_seed_and_not_on_order():
    rows = clips(a=20, b=20)
    tested = [
        {row["ID"] for row in deal_clips(given, seed=seed) if row["split"] == "test"}
        for given, seed in ((rows, 0), (rows[::-1], 0), (rows, 1))
    ]
    assert tested[0] == tested[1] != tested[2]


def test_splits_that_are_given_stay():
    rows = [{**row, "split": "train"} for row in clips(a=9)]
    assert deal_clips(rows) == rows
    with pytest.raises(ValueError, match="test_share is 1"):
        deal_clips(rows, test_share=1)


def test_who_has_one_clip_in_a_split_has_no_reference(caplog):
    rows = [
        {"speaker": name, "split": split}
        for name, split, count in (
            *(("a", "train", 2), ("a", "test", 2), ("b", "train", 2), ("b", "test", 1)),
            ("c", "train", 1),
        )
        for _ in range(count)
    ]
    assert splits(keep_pairs(rows)) == {("a", "train"): 2, ("a", "test"): 2, ("b", "train"): 2}
    assert "left out 2 with too few clips" in caplog.text
    assert "b (test), c (train)" in caplog.text
    assert splits(keep_pairs(rows, in_both=True)) == {("a", "train"): 2, ("a", "test"): 2}


@pytest.mark.parametrize(("there", "missing"), [("train", "test"), ("test", "train")])
def test_nobody_to_train_or_to_test_on_is_refused(there, missing):
    rows = [{**row, "split": there} for row in clips(a=2)] + clips(b=1)
    with pytest.raises(ValueError, match=f"nobody has two clips to {missing} on"):
        keep_pairs(rows)


def test_the_table_says_what_became_of_all_clips():
    rows = [{**row, "corpus": "VCTK", "duration": 36.0} for row in clips(a=5, b=2)]
    used = [
        {**row, "split": split}
        for row, split in zip(rows[:4], ("train", "train", "test", "test"), strict=True)
    ]
    table = describe_voices(rows, {"a004": "silent", "b000": "silent"}, used).splitlines()
    assert table[0].split()[:6] == ["corpus", "clips", "speakers", "train", "test", "hours"]
    assert table[1].split(maxsplit=6) == [
        *("VCTK", "7", "1", "2", "2", "0.04"),
        "3 (2 silent, 1 too few of the speaker)",
    ]
