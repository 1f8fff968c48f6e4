"""What a file says of itself and what is hidden in its sound are told apart."""

import pytest
import soundfile
import torch

from speechcl.data.audio import write_audio
from speechcl.data.embedded import dry_speech
from speechcl.safety.detection import detect_files
from speechcl.safety.provenance import describe, write_speech
from speechcl.safety.watermark import add_watermark

RATE_HZ = 16000
SAYS = describe("Hi.", voice="ann", fingerprint="beef")


def test_a_mark_is_found_in_the_files_of_a_folder_without_what_they_say(tmp_path):
    speech = dry_speech("Nobody asked the farmer why he came.", "en-us+f1", 0, 0, RATE_HZ)
    marked = add_watermark(speech, RATE_HZ, 0xBEEF)
    write_speech(tmp_path / "a.opus", marked, RATE_HZ, SAYS)
    soundfile.write(tmp_path / "b.mp3", marked.numpy(), RATE_HZ)
    write_speech(tmp_path / "c.wav", speech, RATE_HZ, SAYS)
    write_audio(tmp_path / "d.wav", speech, RATE_HZ)
    both, mark, words, none = detect_files([tmp_path])
    assert [row["made_by"] for row in (both, mark, words, none)] == ["speechcl"] * 3 + [""]
    assert [row["watermark"] for row in (both, mark, words, none)] == ["beef", "beef", "", ""]
    assert [row["voice"] for row in (both, mark, words, none)] == ["ann", "", "ann", ""]
    assert both["date"] == SAYS["date"]
    assert mark["false_alarm"] < 1e-6 < none["false_alarm"]


def test_what_cannot_be_looked_at_is_said(tmp_path):
    with pytest.raises(ValueError, match="no sound files in .*: check the path"):
        detect_files([tmp_path])
    write_audio(tmp_path / "a.wav", torch.zeros(RATE_HZ), RATE_HZ)
    (tmp_path / "b.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:-99])
    with pytest.raises(ValueError, match=r"b\.wav.* is cut off"):
        detect_files([tmp_path / "a.wav", tmp_path / "b.wav"])
