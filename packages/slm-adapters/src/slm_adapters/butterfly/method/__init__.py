"""The butterfly method of PEFT. Importing this package imports PEFT and registers the method with it."""

import peft  # noqa: F401  # first: the modules below import its submodules (see slm_adapters.peft_registration)

from slm_adapters.butterfly.method.loading_guards import install
from slm_adapters.butterfly.method.tuner import register

register()
install()
