"""`python -m runfold` is `runfold`, with nothing imported from the current folder by accident."""

import os
import sys


def _forget_current_folder() -> None:
    # `-m` puts the current folder first: a folder `api` or `cli` of the user's own project must not be taken for ours.
    # A checkout of this project is found all the same, beside this file.
    here = os.getcwd()
    ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if sys.path and os.path.abspath(sys.path[0] or here) == here and here != ours:
        del sys.path[0]


if __name__ == "__main__":
    _forget_current_folder()
    from cli.main import main

    main()
