"""Request and response bodies. Request models are strict, so that nothing a client sends is ignored silently."""
