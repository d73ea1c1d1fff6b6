"""The load generator: prompts, an HTTP client, a closed loop of requests, and slm-serve's metrics."""
