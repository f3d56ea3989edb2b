"""A count matrix passes few files, classes and frames of scduet's own on its way from `integrate` to the encoder."""

import sys
import threading
from pathlib import Path

import scduet as sd

ROOT = str(Path(sd.__file__).parent)
MOST = {"files": 13, "classes": 9, "frames": 11}  # scvi-tools 1.4.2: 29 files, 38 classes, 45 frames
ENCODER = "GaussianEncoder.forward"
CARRIERS = {"AnnData", "csr_matrix", "MemorySource", "Cells", "Rows", "CellBatch", "SparseRows", "Tensor", "ndarray"}


def traced_to_the_encoder(function):
    """Code of scduet's own that is handed the counts until a minibatch reaches the encoder, and the stack there.

    The thread that reads ahead counts too.
    """
    seen, stack = set(), []

    def trace(frame, event, arg):
        code = frame.f_code
        if event == "call" and not stack and ours(code):
            handed = {type(value).__name__ for value in frame.f_locals.values()}
            seen.update([code] if handed & CARRIERS else [])
            if code.co_qualname == ENCODER:
                stack.extend(frames_of(frame))

    sys.settrace(trace)
    threading.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(None)
        threading.settrace(None)
    return seen, stack


def ours(code) -> bool:
    return code.co_filename.startswith(ROOT) and not code.co_name.startswith("<")


def frames_of(frame):
    while frame is not None:
        if ours(frame.f_code):
            yield frame.f_code.co_qualname
        frame = frame.f_back


def test_path_from_integrate_to_the_encoder(counts):
    sd.integrate(counts, max_epochs=1)  # imports happen before tracing
    seen, stack = traced_to_the_encoder(lambda: sd.integrate(counts, batch_key="batch", max_epochs=1))
    files = {Path(code.co_filename).relative_to(ROOT).as_posix() for code in seen}
    methods = [code for code in seen if "." in code.co_qualname and "<locals>" not in code.co_qualname]
    classes = {code.co_qualname.split(".")[0] for code in methods}
    print(f"files={len(files)} classes={len(classes)} frames={len(stack)}", sorted(files), sorted(classes), stack)
    assert stack, f"{ENCODER} was not reached: has it another name?"
    assert len(files) <= MOST["files"], sorted(files)
    assert len(classes) <= MOST["classes"], sorted(classes)
    assert len(stack) <= MOST["frames"], stack
