"""Who knows which datasets exist: names, versions, labels and schemas, apart from where the shards lie."""
