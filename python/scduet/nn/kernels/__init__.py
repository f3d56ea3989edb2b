"""Every loop that numba compiles, each beside its plain form. `SCDUET_KERNELS=0` switches all of them off.

To debug a model, or to see what a kernel gains, run the same code without them.
"""
