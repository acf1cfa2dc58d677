"""How shards are read: the dataset, its steps, its batches."""
