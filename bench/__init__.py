"""Measurements of Tocsin, next to a peer or a floor measured in the same run."""

import sys
from pathlib import Path

# The double of Materialize and the other stand-ins are test support.
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
