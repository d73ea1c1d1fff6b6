"""Options of ``slm-train`` as dataclasses.

Nothing here imports torch or transformers, so that ``--help`` and a mistyped flag respond at once. The options of
Hugging Face's Trainer are in ``slm_train.arguments``.
"""
