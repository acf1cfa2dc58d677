"""Where shards lie: the store contract, the commit record, and the local disk."""
