"""Caption metrics from raw text: tokenizer, BLEU, ROUGE-L, CIDEr-D and diversity, without Java and without torch."""
