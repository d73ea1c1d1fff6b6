"""Evaluation of models: tasks of lm-eval, prompts with expected answers, and perplexity of texts."""
