"""``python -m gradtrace`` is the command line."""

from gradtrace.cli import main

if __name__ == "__main__":
    main(prog_name="gradtrace")
