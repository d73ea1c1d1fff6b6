"""What goes over the wire: strict models, so that nothing a client sends is ignored."""
