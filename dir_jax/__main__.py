"""`python -m dir_jax COMMAND …`, which is the same as `dir-jax COMMAND …`."""

if __name__ == "__main__":  # before the other imports, so that Ctrl-C ends them quietly
    from dir_jax.runtime.start import start_program

    start_program()

import sys

from dir_jax.commands.main import main

if __name__ == "__main__":
    sys.exit(main("python -m dir_jax"))
