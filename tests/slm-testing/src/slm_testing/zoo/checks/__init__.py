"""What must hold for each architecture. A check returns an Outcome, or raises AssertionError if something is wrong.

Only two things are right: the same result as transformers' own computation, or a refusal in one sentence.
"""
