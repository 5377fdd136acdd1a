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
def labs_environment(kernels_environment: Environment) -> Environment:
    """The same environment once JupyterLab is in it, too; so this one is asked for last."""
    kernels_environment.install("jupyterlab>=4.2")
    return kernels_environment
