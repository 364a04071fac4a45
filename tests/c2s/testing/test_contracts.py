"""The contracts of stages, methods and students find each promise that is broken, by the test that is meant for it."""

from __future__ import annotations

import pytest
import wrong_methods
import wrong_stages
import wrong_students

from c2s.methods.registry import method_class
from c2s.testing import MethodContract, StageContract, StudentContract
from c2s_pipeline.stages.registry import _named


def camel(test: str) -> str:
    return "".join(word.capitalize() for word in test.removeprefix("test_").split("_"))


def promises(contract: type) -> dict[str, str]:
    return {camel(name): name for name in vars(contract) if name.startswith("test_")}


@pytest.fixture(autouse=True)
def forgotten():
    yield
    _named.clear()


def run(contract: type, test: str, **methods: object) -> None:
    """One test of a contract, with its methods filled in by values."""
    filled = {name: lambda self, value=value: value for name, value in methods.items()}
    getattr(type("Tested", (contract,), filled)(), test)()


@pytest.mark.slow
@pytest.mark.parametrize("promise", sorted(promises(StageContract)))
def test_a_stage_that_breaks_a_promise_is_found(promise):
    test = promises(StageContract)[promise]
    run(StageContract, test, reference="python:wrong_stages:Colours")
    assert hasattr(wrong_stages, promise), f"no stage breaks {test}"
    with pytest.raises(AssertionError):
        run(StageContract, test, reference=f"python:wrong_stages:{promise}")


@pytest.mark.parametrize("promise", sorted(promises(StudentContract)))
def test_a_student_that_breaks_a_promise_is_found(promise):
    test = promises(StudentContract)[promise]
    run(StudentContract, test, name="python:wrong_students:Patches")
    assert hasattr(wrong_students, promise), f"no student breaks {test}"
    with pytest.raises(AssertionError):
        run(StudentContract, test, name=f"python:wrong_students:{promise}")


@pytest.mark.parametrize("promise", sorted(promises(MethodContract)))
def test_a_method_that_breaks_a_promise_is_found(promise):
    test = promises(MethodContract)[promise]
    plain = "python:wrong_methods:Plain"
    run(MethodContract, test, config=method_class(plain)(name=plain))
    assert hasattr(wrong_methods, promise), f"no method breaks {test}"
    wrong = f"python:wrong_methods:{promise}"
    with pytest.raises(AssertionError):
        run(MethodContract, test, config=method_class(wrong)(name=wrong))
