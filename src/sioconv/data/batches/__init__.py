"""From shards to training batches, in an order that can be computed."""
