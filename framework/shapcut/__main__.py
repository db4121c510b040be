"""``python -m shapcut``: the command line."""

from shapcut.cli import main

if __name__ == "__main__":
    main()
