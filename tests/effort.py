"""How much the tests try: `make torture` takes every point and many disks, `make test` a share of them."""

import os

IS_LONG = os.environ.get("RUNFOLD_TORTURE") == "1"
SEED = int(os.environ.get("RUNFOLD_TORTURE_SEED", "1"))
