"""`python -m npo_core` is the `npo` command."""

from npo_core.cli.app import main

if __name__ == "__main__":
    main()
