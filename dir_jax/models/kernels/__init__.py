"""What a backend needs to be fast at the network's operations."""
