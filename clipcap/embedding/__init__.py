"""Images to CLIP embeddings, each with its key, in Parquet."""
