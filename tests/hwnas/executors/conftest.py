import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def faults():
    """`candidate_faults`, importable here and in workers."""
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        import candidate_faults

        yield candidate_faults
    finally:
        sys.path.remove(str(Path(__file__).parent))
