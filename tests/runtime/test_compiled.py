"""The compiled step: fixed shapes, the same tokens, and what happens where nothing compiles."""

from pathlib import Path

import pytest
import torch

from helpers.engines import GREEDY, agree, never_dense, opened, prompt
from helpers.rtn_checkpoints import rounded_toy
from salient.runtime import runner as runners
from salient.runtime.runner import FusedRunner


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rounded_toy(tmp_path_factory.mktemp("compiled"))


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace as torch.compile does, without the minutes that generating code takes."""

    def compiled(step):
        torch._dynamo.reset()
        return torch.compile(step, dynamic=False, fullgraph=True, backend="aot_eager")

    monkeypatch.setattr(runners, "compiled_step", compiled)
    never_dense(monkeypatch)


@pytest.mark.usefixtures("traced")
def test_the_compiled_step_gives_the_tokens_of_the_eager_one(folder):
    prompts = [prompt(5), prompt(17, 1), prompt(9, 3)]  # three in two slots
    built = opened(folder, compile="on")
    actual = built.engine.generate(prompts, GREEDY)
    assert "compiled" in built.engine.runner.how
    wanted = opened(folder).engine.generate(prompts, GREEDY)
    assert all(agree(one, other) for one, other in zip(actual, wanted, strict=True))
    assert isinstance(built.engine.runner, FusedRunner)
    assert built.engine.runner._compiled is not None


def test_without_a_compiler_the_step_runs_eagerly_and_reports_it(folder, monkeypatch):
    def fails(step):
        def compiled(*_):
            raise torch._dynamo.exc.TorchDynamoException("no compiler is here")

        return compiled

    monkeypatch.setattr(runners, "compiled_step", fails)
    never_dense(monkeypatch)
    built = opened(folder, compile="on")
    actual = built.engine.generate([prompt(5)], GREEDY)
    assert "torch.compile fails: no compiler is here" in built.engine.runner.how
    assert agree(actual[0], opened(folder).engine.generate([prompt(5)], GREEDY)[0])
