"""The contract of teachers finds each promise that is broken, by the test that is meant for it."""

from __future__ import annotations

import pytest
import wrong_teachers

from c2s.testing import TeacherContract, TextEncoderContract
from c2s_pipeline.teachers.base import TeacherSpec

CONTRACTS = (TeacherContract, TextEncoderContract)
ALREADY = {"InfoSurvivesJson"}
"""What pydantic holds by itself."""


def camel(test: str) -> str:
    return "".join(word.capitalize() for word in test.removeprefix("test_").split("_"))


TESTS = {
    camel(name): (contract, name)
    for contract in CONTRACTS
    for name in vars(contract)
    if name.startswith("test_")
}


def run(contract: type, test: str, teacher: str) -> None:
    """One test of a contract on a teacher."""
    spec = TeacherSpec(f"python:{teacher}")
    getattr(type("Tested", (contract,), {"spec": lambda self: spec})(), test)()


@pytest.mark.parametrize("promise", sorted(set(TESTS) - ALREADY))
def test_a_broken_promise_is_found(promise):
    contract, test = TESTS[promise]
    run(contract, test, "plain_teacher:Colours")
    assert hasattr(wrong_teachers, promise), f"no teacher breaks {test}"
    with pytest.raises(AssertionError):
        run(contract, test, f"wrong_teachers:{promise}")
