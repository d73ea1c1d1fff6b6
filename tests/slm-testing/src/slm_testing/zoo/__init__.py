"""Tiny random models of many architectures, and the checks of what the packages do with each of them.

To add an architecture, add one entry to the list of its family: ``decoders``, ``windows``, ``positions``, ``mixtures``
or ``recurrent``.
"""
