"""Dealing, choosing and describing clips of several corpora; reading several at once."""

from collections import Counter

import pytest

from speechcl.data import read_manifest
from speechcl.data.corpora import (
    READERS,
    cap_per_class,
    deal_speakers,
    describe,
    keep_share,
    open_clips,
    prepare_clips,
    read_corpora,
)
from speechcl.data.manifest_checks import ManifestError
from tests.data.corpora.trees import build, write_clip


def clips(corpus="ASVspoof2019LA", split="train", genuine=10, speakers=5, **attacks):
    kinds = {"-": genuine, **attacks}
    return [
        {
            "ID": f"{corpus}-{split}-{attack}-{number}",
            "corpus": corpus,
            "label": "bonafide" if attack == "-" else "spoof",
            "attack": attack,
            "speaker": f"LA_{number % speakers}" if speakers else "-",
            "split": split,
        }
        for attack, count in kinds.items()
        for number in range(count)
    ]


def test_a_speaker_of_several_corpora_is_on_one_side():
    rows = [
        *clips("ASVspoof2019LA", "", genuine=40, speakers=20),
        *clips("ASVspoof2021LA", "", genuine=30, speakers=20, A07=60),
        *clips("ASVspoof2021DF", "", genuine=30, speakers=20),
    ]
    dealt = deal_speakers(rows, {"train": 0.5, "test": 0.5}, seed=3)
    sides = {(row["speaker"], row["split"]) for row in dealt}
    assert len(sides) == 20
    assert {row["split"] for row in dealt} == {"train", "test"}
    assert [row["ID"] for row in dealt] == [row["ID"] for row in rows]
    assert rows[0]["split"] == ""
    assert deal_speakers(rows, {"train": 0.5, "test": 0.5}, seed=3) == dealt
    assert deal_speakers(rows, {"train": 0.5, "test": 0.5}, seed=4) != dealt


def test_other_corpora_are_dealt_apart_and_official_splits_stay():
    rows = [
        *clips("ASVspoof2019LA", "train"),
        *clips("InTheWild", "", genuine=100, speakers=20),
        *clips("FMFCC-A", "", genuine=100, speakers=0),
    ]
    counts = Counter((row["corpus"], row["split"]) for row in deal_speakers(rows))
    assert counts == {
        ("ASVspoof2019LA", "train"): 10,
        ("InTheWild", "train"): 65,
        ("InTheWild", "test"): 35,
        ("FMFCC-A", "train"): 65,
        ("FMFCC-A", "test"): 35,
    }


def test_too_few_speakers_are_named_with_their_corpus():
    with pytest.raises(ValueError, match="InTheWild: 1 speakers cannot fill 2 splits"):
        deal_speakers(clips("InTheWild", "", speakers=1))


def test_classes_are_capped_and_attacks_share_as_far_as_they_last():
    rows = [
        *clips(genuine=50, A01=40, A02=3, A03=40),
        *clips(split="test", genuine=2, A01=9),
        *clips("FoR", genuine=50, unknown=50),
    ]
    kept = cap_per_class(rows, {"train": 21, "test": 5}, seed=1)
    counts = Counter((row["corpus"], row["split"], row["attack"]) for row in kept)
    assert counts == {
        ("ASVspoof2019LA", "train", "-"): 21,
        ("ASVspoof2019LA", "train", "A01"): 9,
        ("ASVspoof2019LA", "train", "A02"): 3,
        ("ASVspoof2019LA", "train", "A03"): 9,
        ("ASVspoof2019LA", "test", "-"): 2,
        ("ASVspoof2019LA", "test", "A01"): 5,
        ("FoR", "train", "-"): 21,
        ("FoR", "train", "unknown"): 21,
    }
    assert kept == [row for row in rows if row in kept]
    assert cap_per_class(rows, {"train": 21, "test": 5}, seed=1) == kept
    assert cap_per_class(rows, {"train": 21, "test": 5}, seed=2) != kept
    # not the first ones of a list, which may be one speaker's
    numbers = [int(row["ID"].rsplit("-", 1)[1]) for row in kept if row["attack"] == "-"]
    assert max(numbers) > 30


def test_one_corpus_does_not_change_which_clips_another_gives():
    mine, other = clips(genuine=50, A01=50), clips("FoR", genuine=50, unknown=50)
    alone = cap_per_class(mine, {"train": 7})
    both = cap_per_class(other + mine, {"train": 7})
    assert [row for row in both if row["corpus"] == "ASVspoof2019LA"] == alone


@pytest.mark.parametrize("maximum", [{"train": 0}, {"train": 5, "test": -1}])
def test_a_cap_below_one_is_refused(maximum):
    with pytest.raises(ValueError, match="keep at least 1"):
        cap_per_class(clips(), maximum)


def test_a_split_without_a_cap_is_refused():
    with pytest.raises(ValueError, match=r"splits are \['valid'\]: only train, test"):
        cap_per_class(clips(split="valid"), {"train": 5, "test": 5})


def test_a_share_keeps_proportions():
    rows = [*clips(genuine=10, A01=40, A02=1), *clips(split="test", genuine=20)]
    kept = keep_share(rows, 0.3, seed=1)
    counts = Counter((row["split"], row["attack"]) for row in kept)
    assert counts == {
        ("train", "-"): 3,
        ("train", "A01"): 12,
        ("train", "A02"): 1,
        ("test", "-"): 6,
    }
    assert kept == [row for row in rows if row in kept]
    assert keep_share(rows, 1.0) == rows
    for share in (0, -1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="above 0, at most 1"):
            keep_share(rows, share)


def test_only_chosen_clips_are_opened_and_the_manifest_reads_back(tmp_path):
    rows = deal_speakers(READERS["InTheWild"](build("InTheWild", tmp_path)))
    (tmp_path / "release_in_the_wild" / "3.wav").unlink()
    kept = prepare_clips(rows, lambda found: found[:3], tmp_path / "corpus")
    assert [row["duration"] for row in kept] == [0.25] * 3
    read = read_manifest(tmp_path / "corpus" / "manifest.csv")
    assert [row["speaker"] for row in read] == [row["speaker"] for row in rows[:3]]
    with pytest.raises(ManifestError, match="meta.csv line 5: .*no such file"):
        prepare_clips(rows, list, tmp_path / "corpus")
    assert read_manifest(tmp_path / "corpus" / "manifest.csv") == read


def test_a_speaker_on_both_sides_is_refused(tmp_path):
    rows = READERS["InTheWild"](build("InTheWild", tmp_path))
    for row, split in zip(rows, ("train", "test", "train", "train"), strict=True):
        row["split"] = split
    with pytest.raises(ManifestError, match="speaker 'Alec Guinness' is in splits train, test"):
        open_clips(rows)


def test_no_clips_are_refused():
    with pytest.raises(ManifestError, match="no corpus: no rows"):
        open_clips([])


def test_the_table_counts_what_was_found_and_what_is_used():
    rows = [
        *clips(genuine=3, speakers=2, A01=4, A02=1),
        *clips(split="test", genuine=2, speakers=1, A01=1),
        *clips("FoR", genuine=1, speakers=0, unknown=1),
    ]
    lines = [line.split() for line in describe(rows, rows[:1] + rows[8:10]).splitlines()]
    assert lines[1:] == [
        ["ASVspoof2019LA", "5", "6", "2", "2", "8", "3", "1", "2"],
        ["FoR", "1", "1", "-", "-", "2", "0", "0", "0"],
    ]


def test_corpora_are_read_in_order_from_their_folders_or_elsewhere(tmp_path):
    build("FoR", tmp_path / "data" / "FoR")
    build("FMFCC-A", tmp_path / "else")
    rows = read_corpora(
        ["FoR", "FMFCC-A"],
        tmp_path / "data",
        folders={"FMFCC-A": str(tmp_path / "else")},
        options={"FMFCC-A": {"processed": False}},
    )
    assert list(Counter(row["corpus"] for row in rows).items()) == [("FoR", 8), ("FMFCC-A", 2)]


def test_all_missing_corpora_are_named_at_once(tmp_path):
    build("FoR", tmp_path / "FoR")
    write_clip(tmp_path / "ADD2022" / "a.wav")
    with pytest.raises(ValueError, match="2 of 3 corpora are missing: .*Zenodo 4837263.*addchall"):
        read_corpora(["ASVspoof2021LA", "FoR", "ADD2022"], tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ["ASVspoof2017"]}, "corpus 'ASVspoof2017' is unknown: choose among ASV"),
        ({"names": ["FoR"], "folders": {"For": "x"}}, "corpus 'For' is unknown"),
        ({"names": ["FoR"], "options": {"FOR": {}}}, "corpus 'FOR' is unknown"),
        ({"names": []}, "name at least one, and each once"),
        ({"names": ["FoR", "FoR"]}, "name at least one, and each once"),
        ({"names": ["FoR"], "options": {"FoR": {"v": 1}}}, "FoR has no option 'v': it has version"),
        (
            {"names": ["ASVspoof2021DF"], "options": {"ASVspoof2021DF": {"track": "LA"}}},
            "has no option 'track': it has subsets",
        ),
        (
            {"names": ["InTheWild"], "options": {"InTheWild": {"x": 1}}},
            "has no option 'x': it has none",
        ),
    ],
)
def test_unknown_names_and_options_are_refused(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_corpora(data_folder=tmp_path, **arguments)
