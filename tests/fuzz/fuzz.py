"""Feed one reader with mutated files for so many runs, guided by what code they reach (atheris).

    python tests/fuzz/fuzz.py model --runs 20000 --corpus FOLDER

What breaks it is kept in `tests/fuzz/kept/READER/`, and the plain tests read it from then on.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SECONDS_EACH, MEMORY_MB, MAX_BYTES = 5, 4096, 200_000


def main() -> None:
    """Fuzz the reader that is named."""
    import atheris  # tests collect this file without it

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reader")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--corpus", type=Path, required=True, help="seeds and finds go there")
    options = parser.parse_args()
    with atheris.instrument_imports(include=["hwnas", "predictors", "profilers"]):
        import fuzz_readers as readers
        from fuzz_reader import check
    reader = readers.READERS[options.reader]
    corpus = options.corpus / options.reader
    kept = HERE / "kept" / options.reader
    corpus.mkdir(parents=True, exist_ok=True)
    kept.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="hwnas-fuzz-", dir=_memory()))
    for i, seed in enumerate(reader.seeds()):
        (corpus / f"seed{i}").write_bytes(seed)
        check(reader, seed, folder)  # what it imports does not count as a hang
    flags = [
        f"-runs={options.runs // 10 if reader.is_slow else options.runs}",
        f"-timeout={SECONDS_EACH}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-max_len={MAX_BYTES}",
        "-print_final_stats=1",
        "-verbosity=0",
        f"-artifact_prefix={kept}/",  # what crashes the process, or hangs it, lands there as well
    ]

    def read(content: bytes) -> None:
        try:
            check(reader, content, folder)
        except BaseException:
            (kept / hashlib.sha256(content).hexdigest()[:16]).write_bytes(content)
            raise

    atheris.Setup([sys.argv[0], *flags, str(corpus), str(kept)], read)
    atheris.Fuzz()


def _memory() -> str | None:
    """A folder in memory, where the system has one: a file is written in every run."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


if __name__ == "__main__":
    main()
