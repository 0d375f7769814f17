"""`python -m hwnas` is `hwnas`, where scripts are not on the path."""

from hwnas.cli import main

if __name__ == "__main__":
    main()
