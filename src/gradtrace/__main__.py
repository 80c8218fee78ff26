"""``python -m gradtrace`` is the command line."""

from gradtrace.commands.main import main

if __name__ == "__main__":
    main(prog_name="gradtrace")
