"""Evaluation: confusion matrix, zero-shot metrics, sliding-window inference."""
