"""Cards of models and batches in the form that the Hugging Face hub reads, written from what the lake knows."""
