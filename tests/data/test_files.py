"""Atomic writing: the old content or the new one, never a mixture, never a leftover."""

import signal
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speechcl.data.files import atomic_path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(old=st.none() | st.binary(), new=st.binary(), fails=st.booleans())
def test_old_or_new_content(tmp_path, old, new, fails):
    path = tmp_path / "file.bin"
    path.unlink(missing_ok=True)
    if old is not None:
        path.write_bytes(old)
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(new)
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert (path.read_bytes() if path.exists() else None) == old
    else:
        assert path.read_bytes() == new
    assert set(tmp_path.iterdir()) <= {path}


def test_temporary_is_hidden_beside_the_target_with_its_suffix(tmp_path):
    with atomic_path(tmp_path / "new" / ("x" * 250 + ".wav")) as temporary:
        assert temporary.parent == tmp_path / "new"
        assert temporary.name.startswith(".")
        assert temporary.suffix == ".wav"
        temporary.touch()


def test_folder_replaces_nothing_or_an_empty_one(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("missing", "empty"):
        with atomic_path(tmp_path / name) as temporary:
            (temporary / "deep").mkdir(parents=True)
            (temporary / "deep" / "a.txt").write_text("a")
        assert (tmp_path / name / "deep" / "a.txt").read_text() == "a"


def test_full_folder_is_left_alone(tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    (full / "old.txt").touch()
    with pytest.raises(OSError), atomic_path(full) as temporary:  # noqa: PT012
        temporary.mkdir()
        (temporary / "new.txt").touch()
    assert [p.name for p in tmp_path.rglob("*")] == ["full", "old.txt"]


def test_body_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_kill_while_writing_keeps_the_old_file(tmp_path):
    path = tmp_path / "model.bin"
    path.write_text("old")
    program = f"""
from speechcl.data.files import atomic_path
with atomic_path({str(path)!r}) as temporary, temporary.open("wb") as stream:
    stream.write(b"new" * 1000)
    stream.flush()
    print("half way", flush=True)
    input()
"""
    writer = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout.readline() == "half way\n"
    writer.kill()
    writer.communicate()
    assert writer.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert sum(p.stat().st_size for p in tmp_path.iterdir() if p != path) == 3000
