"""One command for everything: run.py demo | host | small-world | test | fuzz | bench | workflow."""

import sys

if sys.version_info < (3, 10):
    sys.exit(
        "error: run.py needs Python 3.10 to 3.14, and this is Python %d.%d; "
        "start it with a newer one, for example: python3.12 run.py demo" % sys.version_info[:2]
    )

from launcher.commands import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
