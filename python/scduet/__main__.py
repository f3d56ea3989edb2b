"""`python -m scduet` is the command `scduet`; so `torchrun -m scduet fit ...` works."""

import sys

from scduet.cli import main

if __name__ == "__main__":
    sys.exit(main())
