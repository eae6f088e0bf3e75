"""`hansa`: the entry point."""

import sys


def main() -> None:
    """Run the command line.

    A plain `hansa verify` takes the short way, which costs a third of the command tree's time.
    """
    from hansa.foreground.cli.judging import read_plain_call, run_plain_call

    call = read_plain_call(sys.argv[1:])
    if call is not None:
        sys.exit(run_plain_call(call))
    from hansa.foreground.cli.application import app
    from hansa.foreground.cli.dumping import forbid_dumps

    forbid_dumps()  # Every command from here on, `start` among them, may open a key store.
    app()


if __name__ == "__main__":
    main()
