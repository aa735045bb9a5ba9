"""What our embedding classes share: fields, cache keys, packed batches, devices, positions."""
