"""An index as a page and a JSON API: `dir-jax serve`."""
