"""All numba kernels, each with a plain equivalent. `SCDUET_KERNELS=0` disables them.

Disable them to debug a model or to measure the gain of a kernel.
"""
