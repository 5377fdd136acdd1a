"""Fixtures of the packaging's tests: what was built, and an environment that has it."""

from __future__ import annotations

import pytest

from tests.packaging.distributions import Distributions, Environment, distributions, environment


@pytest.fixture(scope="session")
def built() -> Distributions:
    """The sdist and the wheel of this tree."""
    return distributions()


@pytest.fixture(scope="session")
def kernels_environment(
    built: Distributions, tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    """An environment with the wheel and what it asks for, without JupyterLab."""
    made = environment(tmp_path_factory.mktemp("kernels"))
    made.install(built.wheel)
    return made


@pytest.fixture(scope="session")
def labs_environment(built: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel and JupyterLab."""
    made = environment(tmp_path_factory.mktemp("labs"))
    made.install(built.wheel, "jupyterlab>=4.2")
    return made
