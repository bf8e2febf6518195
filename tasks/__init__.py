"""One retryable, cached Prefect task for each stage and shard: thin, one call into clipcap each."""
