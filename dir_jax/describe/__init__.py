"""From images to descriptors: padded shapes, batches over devices, resuming, feature files."""
