"""`python -m dir_jax COMMAND …`, which is the same as `dir-jax COMMAND …`."""

import sys

from dir_jax.commands.main import main

if __name__ == "__main__":
    sys.exit(main("python -m dir_jax"))
