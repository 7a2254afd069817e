"""Lets the tests import golden/recipe.py, which defines the inputs of golden/."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "golden"))
