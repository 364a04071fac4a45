"""Frozen vision-language models: image embeddings, dense features and text embeddings, a file per family."""
