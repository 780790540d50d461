"""``python -m seqtune`` is the command."""

from seqtune.cli import main

if __name__ == "__main__":
    main()
