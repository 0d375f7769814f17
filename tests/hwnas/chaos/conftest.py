import sys
from pathlib import Path

# Modules beside the tests are importable, as they are for the processes that use them.
sys.path.insert(0, str(Path(__file__).parent))
