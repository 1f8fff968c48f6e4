"""What the guides show works as shown."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from speechcl.method import Method, Step
from tests.toy import same, toy_engine

GUIDE = Path(__file__).parents[1] / "docs" / "adding-a-method.md"


def guide_class():
    code = re.search(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL).group(1)
    names = {"Method": Method, "Step": Step, "Tensor": Tensor, "torch": torch}
    exec(code, names)
    return names["StayClose"]


def test_the_guides_method_remembers_and_holds_the_weights(tmp_path):
    make = guide_class()
    free = toy_engine(tmp_path / "free", make(strength=0.0), tasks=2)
    free.run()
    held = toy_engine(tmp_path / "held", make(strength=10.0), tasks=2)
    held.run()

    def drift(engine):
        first = toy_engine(tmp_path / f"first {id(engine)}", Method(), tasks=1)
        first.run()
        start = dict(first.modules.named_parameters())
        return sum((p - start[n]).norm() for n, p in engine.modules.named_parameters())

    assert drift(held) < 0.5 * drift(free)
    again = toy_engine(tmp_path / "held", make(strength=10.0), tasks=2)
    again.run()
    assert same(again.method.state_dict(), held.method.state_dict())


def test_every_hook_of_the_guide_exists():
    shown = re.findall(r"^\| (`.*?`) \|", GUIDE.read_text(), re.MULTILINE)
    hooks = {name for cell in shown for name in re.findall(r"(\w+)\(", cell)}
    assert len(hooks) == 12
    assert hooks <= set(vars(Method))


README = GUIDE.parents[1] / "README.md"
ADAPTERS = GUIDE.parent / "adapters.md"


def blocks(language, page=README):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.parametrize("block", blocks("python") + blocks("python", ADAPTERS))
def test_the_examples_of_readme_and_adapters_run(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(block, {})
    assert capsys.readouterr().out.strip()


def test_the_readmes_study_is_the_one_that_it_names():
    (shown,) = blocks("yaml")
    study = README.parent / "recipes" / "OwnSpeech" / "detection" / "study.yaml"
    assert yaml.safe_load(shown) == yaml.safe_load(study.read_text())


def test_the_readme_lists_every_method():
    import speechcl.methods

    listed = re.findall(r"^\| `(\w+)` \|", README.read_text(), re.MULTILINE)
    public = {name: getattr(speechcl.methods, name) for name in speechcl.methods.__all__}
    methods = [name for name, one in public.items() if issubclass(one, Method) and name != "Chain"]
    assert sorted(listed) == sorted(methods)
