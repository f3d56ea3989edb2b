"""Settings that scvi-tools' users know: `scvi.settings.seed = 0`."""

seed: int | None = None  # of splits, initial weights and draws; None for another one each time
batch_size: int = 128  # cells in a minibatch, where a call names none
verbosity: int = 20
num_threads: int | None = None  # of torch, set when training starts
dl_num_workers: int = 0  # has no effect: minibatches are made in the main process
dl_persistent_workers: bool = False
logging_dir: str = "./scvi_log/"
progress_bar_style: str = "tqdm"
warnings_stacklevel: int = 2
