"""What the command lines share: flags, exit codes, errors as one line."""
