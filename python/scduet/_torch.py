"""The only place that imports torch first; every file that uses torch imports it from here.

Inside R (reticulate) on Linux, R has loaded its own BLAS globally and the dynamic linker would bind torch's matrix
products to it, which makes them 20 to 50 times slower. RTLD_DEEPBIND makes torch prefer its own symbols. Set
SCDUET_DEEPBIND=0 to switch this off. On macOS and Windows libraries are bound by name, so nothing is done there.
"""

import os
import sys


def _inside_r_on_linux() -> bool:
    return sys.platform.startswith("linux") and "rpytools" in sys.modules and "torch" not in sys.modules


DEEPBIND = _inside_r_on_linux() and os.environ.get("SCDUET_DEEPBIND", "1") != "0"

if DEEPBIND:
    _flags = sys.getdlopenflags()
    sys.setdlopenflags(_flags | os.RTLD_DEEPBIND)
    try:
        import torch
    finally:
        sys.setdlopenflags(_flags)
else:
    import torch

if hasattr(os, "register_at_fork"):  # OpenMP's threads are not there in a forked process, which would wait for them
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))

__all__ = ["DEEPBIND", "torch"]
