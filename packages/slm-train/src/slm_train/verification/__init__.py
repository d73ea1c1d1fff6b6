"""What training relies on, verified on the loaded model: causality, and packing without attention between documents."""
