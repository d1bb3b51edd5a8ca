"""``python -m mnv3c`` is the command line."""

from mnv3c.cli import main

if __name__ == "__main__":
    main()
