"""The parts: one module each, with ``run(recorder)``, described in ``gpu_checks.registry``."""
