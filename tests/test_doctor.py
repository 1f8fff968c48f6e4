"""The doctor: every kind of trouble is named together with its remedy."""

import importlib.metadata

import pytest

from speechcl import doctor


@pytest.fixture
def installed(monkeypatch):
    """A pretended set of installed packages and their versions."""
    packages = {"speechcl": "0.1.0", "torch": "2.11.0", "torchaudio": "2.11.0", "tool": "1.5"}
    needs = ["torch>=2.11", "torchaudio>=2.11", "tool>=1.0", 'extra-tool>=2; extra == "lm"']

    def version(package):
        if package not in packages:
            raise importlib.metadata.PackageNotFoundError(package)
        return packages[package]

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: needs)
    return packages


def test_all_is_well(installed):
    found = doctor.examine()
    assert found["problems"] == []
    assert found["versions"]["tool"] == "1.5"
    assert "extra-tool" not in found["versions"]


def test_missing_package(installed):
    del installed["tool"]
    found = doctor.examine()
    assert found["problems"] == ["tool is missing: run pip install 'tool>=1.0'"]
    assert found["versions"]["tool"] is None


def test_old_package(installed):
    installed["tool"] = "0.9"
    assert doctor.examine()["problems"] == ["tool 0.9: run pip install 'tool>=1.0'"]


def test_unpaired_torchaudio(installed):
    installed["torchaudio"] = "2.12.0"
    (problem,) = doctor.examine()["problems"]
    assert problem.startswith("torchaudio 2.12.0 does not pair with torch 2.11.0: run pip install")
    assert "'torchaudio==2.11.*'" in problem


@pytest.mark.parametrize(
    ("version", "missing"), [(None, ["extra-tool"]), ("1.0", ["extra-tool"]), ("2.0", [])]
)
def test_extra_is_present_when_its_packages_are(installed, version, missing):
    if version:
        installed["extra-tool"] = version
    extra = doctor.examine()["extras"]["lm"]
    assert extra == {"missing": missing, "remedy": "pip install 'speechcl[lm]'"}
