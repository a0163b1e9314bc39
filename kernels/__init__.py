"""BICEP: random walks whose steps are the bits of addressed Philox words, for CPU and GPU.

One module an operation: its interface, its reference, its backends. Importing needs neither CuPy nor a GPU.
"""
