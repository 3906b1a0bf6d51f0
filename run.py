"""One command for everything: run.py demo | host | small-world | test | fuzz | bench | workflow."""

import os
import sys

if sys.version_info < (3, 10):
    sys.exit(
        "error: run.py needs Python 3.10 to 3.14, and this is Python %d.%d; "
        "start it with a newer one, for example: python3.12 run.py demo" % sys.version_info[:2]
    )

if __name__ == "__main__":
    folder = os.path.dirname(os.path.abspath(__file__))
    if folder not in sys.path:  # the Python of ComfyUI's portable build looks in its own alone
        sys.path.insert(0, folder)
    try:
        from launcher.commands import main

        status = main(sys.argv[1:])
    except KeyboardInterrupt:  # also while everything is imported
        sys.stderr.write("stopped.\n")
        status = 130
    sys.exit(status)
