"""The fixtures of these tests."""

from tests.files.projects import project, repository

__all__ = ["project", "repository"]
