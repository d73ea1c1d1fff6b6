"""The verification on a GPU: parts that run in processes of their own, their results, and the page about them."""
