"""From a folder of pictures to "which of these is it?": indexes, engines, pairs and duplicates."""
