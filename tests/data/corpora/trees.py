"""Small copies of public corpora: the official folders and list layouts, clips of noise."""

import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import soundfile

# corpus: its lists as they are given out, and its clips
LISTS = {
    "ASVspoof2015": {
        "CM_protocol/cm_train.trn": "T1 T1_1000001 human human\nT1 T1_1000002 S1 spoof\n",
        "CM_protocol/cm_develop.ndx": "D1 D1_1000001 human human\nD1 D1_1000002 S5 spoof\n",
        "CM_protocol/cm_evaluation.ndx": (
            "E1 E1_1000001 human human\nE1 E1_1000002 S10 spoof\n"
            "E2 E2_1000001 human human\nE2 E2_1000002 S6 spoof\n"
        ),
    },
    "ASVspoof2019LA": {
        "LA/ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.train.trn.txt": (
            "LA_0079 LA_T_1138215 - - bonafide\nLA_0079 LA_T_1271820 - A01 spoof\n"
        ),
        "LA/ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.dev.trl.txt": (
            "LA_0069 LA_D_1047731 - - bonafide\nLA_0069 LA_D_1105538 - A06 spoof\n"
        ),
        "LA/ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.eval.trl.txt": (
            "LA_0039 LA_E_2834763 - A11 spoof\nLA_0039 LA_E_8877452 - - bonafide\n"
            "LA_0014 LA_E_6828287 - A19 spoof\nLA_0014 LA_E_6977360 - - bonafide\n"
        ),
        "LA/ASVspoof2019_LA_asv_scores/ASVspoof2019.LA.asv.eval.gi.trl.scores.txt": (
            "- target 3.25\n- nontarget -2.5\nA11 spoof 0.125\n- target 1e-1\n"
        ),
    },
    "ASVspoof2021LA": {
        "keys/LA/CM/trial_metadata.txt": (
            "LA_0009 LA_E_9332881 alaw ita_tx A07 spoof notrim eval\n"
            "LA_0009 LA_E_6866159 none - bonafide bonafide notrim eval\n"
            "LA_0012 LA_E_5464494 opus loc_tx A19 spoof notrim eval\n"
            "LA_0012 LA_E_3068428 g722 loc_tx bonafide bonafide notrim eval\n"
            "LA_0012 LA_E_2549289 pstn mad_tx A08 spoof notrim progress\n"
            "LA_0012 LA_E_1111111 none - A08 spoof trim hidden\n"
        ),
    },
    "ASVspoof2021DF": {
        "keys/DF/CM/trial_metadata.txt": (
            "LA_0023 DF_E_2000011 nocodec asvspoof A14 spoof notrim progress "
            "traditional_vocoder - - - -\n"
            "LA_0043 DF_E_2000026 mp3m4a asvspoof A09 spoof notrim eval "
            "traditional_vocoder - - - -\n"
            "LA_0043 DF_E_2000027 low_mp3 asvspoof - bonafide notrim eval bonafide - - - -\n"
            "TEF1 DF_E_2000080 oggm4a vcc2020 Task1-team20 spoof notrim eval "
            "neural_vocoder_nonautoregressive Task1 team20 FF E\n"
            "TEF1 DF_E_2000081 nocodec vcc2020 - bonafide notrim eval bonafide - - - -\n"
        ),
    },
    "InTheWild": {
        "release_in_the_wild/meta.csv": (
            "file,speaker,label\n0.wav,Alec Guinness,spoof\n1.wav,Alec Guinness,bona-fide\n"
            "2.wav,Barack Obama,spoof\n3.wav,Barack Obama,bona-fide\n"
        ),
    },
    "FMFCC-A": {
        "AllUtteranceInfo.txt": (
            "20000001.wav,0,A01\r\n20000002.wav,0,A13_ND02\r\n20000003.wav,1,N01\r\n"
            "20000004.wav,1,N01_MP3\r\n"
        ),
    },
    "ADD2022": {
        "ADD_train_dev/label/train_label.txt": (
            "ADD_T_00000000.wav genuine\nADD_T_00000001.wav fake\n"
        ),
        "ADD_train_dev/label/dev_label.txt": (
            "ADD_D_00000000.wav fake\nADD_D_00000001.wav genuine\n"
        ),
        "eval_track1/label.txt": "ADD_E1_00000000 spoof\nADD_E1_00000001 bonafide\n",
    },
    "FoR": {},
}
CLIPS = {
    "ASVspoof2015": [
        f"wav/{name[:2]}/{name}.wav"
        for name in (
            *("T1_1000001", "T1_1000002", "D1_1000001", "D1_1000002"),
            *("E1_1000001", "E1_1000002", "E2_1000001", "E2_1000002"),
        )
    ],
    "ASVspoof2019LA": [
        f"LA/ASVspoof2019_LA_{part}/flac/{name}.flac"
        for part, name in (
            *(("train", "LA_T_1138215"), ("train", "LA_T_1271820")),
            *(("dev", "LA_D_1047731"), ("dev", "LA_D_1105538")),
            *(("eval", "LA_E_2834763"), ("eval", "LA_E_8877452")),
            *(("eval", "LA_E_6828287"), ("eval", "LA_E_6977360")),
        )
    ],
    "ASVspoof2021LA": [
        f"ASVspoof2021_LA_eval/flac/LA_E_{number}.flac"
        for number in (9332881, 6866159, 5464494, 3068428, 2549289, 1111111)
    ],
    "ASVspoof2021DF": [
        f"ASVspoof2021_DF_eval/flac/DF_E_{number}.flac"
        for number in (2000011, 2000026, 2000027, 2000080, 2000081)
    ],
    "InTheWild": [f"release_in_the_wild/{number}.wav" for number in range(4)],
    "FMFCC-A": [f"wav/2000000{number}.wav" for number in range(1, 5)],
    "ADD2022": [
        *("ADD_train_dev/train/ADD_T_00000000.wav", "ADD_train_dev/train/ADD_T_00000001.wav"),
        *("ADD_train_dev/dev/ADD_D_00000000.wav", "ADD_train_dev/dev/ADD_D_00000001.wav"),
        *("eval_track1/wav/ADD_E1_00000000.wav", "eval_track1/wav/ADD_E1_00000001.wav"),
    ],
    "FoR": [
        f"for-norm/{part}/{label}/{name}.wav"
        for part in ("training", "validation", "testing")
        for label in ("real", "fake")
        for name in ("file1.wav_16k", "file2.wav_16k")
    ],
}


def build(corpus: str, folder: Path) -> Path:
    """Write a corpus below a folder and return the folder."""
    write_tree(folder, LISTS[corpus], CLIPS[corpus])
    return folder


def write_tree(folder: Path, lists: Mapping[str, str], clips: Iterable[str]) -> None:
    for name, text in lists.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")
    for name in clips:
        write_clip(folder / name)


def write_clip(path: Path, duration_s: float = 0.25) -> None:
    """Write noise that depends on the file's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(zlib.crc32(path.name.encode()))
    soundfile.write(path, 0.1 * draw.standard_normal(round(duration_s * 16000)), 16000)


def build_asvspoof2019la(folder: Path, clips: int = 2) -> Path:
    """Write a larger ASVspoof 2019 LA: all attacks, two speakers a part, four in eval."""
    speakers = {"train": ("LA_0079", "LA_0080"), "dev": ("LA_0069", "LA_0070")}
    speakers["eval"] = ("LA_0001", "LA_0002", "LA_0003", "LA_0004")
    suffix = {"train": "trn", "dev": "trl", "eval": "trl"}
    for part, names in speakers.items():
        attacks = range(7, 20) if part == "eval" else range(1, 7)
        kinds = ["- bonafide"] * len(attacks) + [f"A{number:02d} spoof" for number in attacks]
        lines = [
            f"{speaker} LA_{part[0].upper()}_{place:03d}{kind:03d}{clip} - {kinds[kind]}"
            for place, speaker in enumerate(names)
            for kind in range(len(kinds))
            for clip in range(clips)
        ]
        path = f"LA/ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.{part}.{suffix[part]}.txt"
        flac = f"LA/ASVspoof2019_LA_{part}/flac"
        utterances = [line.split()[1] for line in lines]
        write_tree(folder, {path: "\n".join(lines)}, [f"{flac}/{one}.flac" for one in utterances])
    return folder
