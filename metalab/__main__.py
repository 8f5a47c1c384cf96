"""python -m metalab: the same as metalab."""

from metalab.cli import main

if __name__ == "__main__":
    main()
