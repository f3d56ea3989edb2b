"""The main job from end to end: counts -> integrated, scored embedding -> pictures and a report, in Python and in R.

Without --data: 700 real blood cells whose second batch is made by thinning the counts (see sd.datasets.pbmc68k).
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from anndata import AnnData

import scduet as sd
from scduet.errors import ScduetError
from scduet.io.cells import read, write
from scduet.tasks.workflows.draw import draw

ROOT = Path(__file__).resolve().parents[1]
N_GENES = 2000  # variable genes to choose where a file names none and has many


def main() -> None:
    asked = arguments()
    out: Path = asked.out
    out.mkdir(exist_ok=True)
    if asked.data is None:
        adata, layer, batch, label = sd.datasets.pbmc68k(), None, "batch", "cell_type"
        say("700 real blood cells; the second batch is artificial: every gene keeps its own random share of the counts")
    else:
        adata, layer, batch, label = *counts_of(asked.data, asked.batch), asked.batch, asked.label
    keys = [key for key in (batch, label) if key]
    write(adata, out / "counts.h5ad", overwrite=True)

    say(f"training scVI on {adata.n_obs} cells")
    model = sd.integrate(adata, "scvi", layer=layer, batch_key=batch)
    model.save(out / "model", overwrite=True)
    write(adata, out / "integrated.h5ad", overwrite=True)
    sd.pl.save_figure(sd.pl.training_curves(model.history), out / "training.png")

    say("scoring beside the unintegrated PCA")
    scores = sd.score(adata, ["X_scVI"], batch, label, layer=layer)
    scores.to_csv(out / "scores.csv")
    print(scores.T.to_string(float_format=lambda value: f"{value:.3f}"))

    say("drawing, and writing the report")
    sd.pl.save_figure(draw(adata, ["X_scVI"], keys, layer=layer), out / "umap.png")
    sd.report(adata, out / "report.html", model=model, labels_key=label, scores=scores, overwrite=True)
    same_in_r(out, batch, label)
    say("done; look at " + ", ".join(str(path) for path in sorted(out.iterdir())))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="your file: .h5ad, .zarr, .loom, 10x .h5 or folder")
    parser.add_argument("--batch", help="column of obs with the batch")
    parser.add_argument("--label", help="column of obs with the cell type, if known")
    parser.add_argument("--out", type=Path, default=Path("demo"))
    asked = parser.parse_args()
    if (asked.data is None) != (asked.batch is None):
        parser.error("your own data need both: make demo DATA=my.h5ad BATCH=donor")
    return asked


def counts_of(path: Path, batch: str) -> tuple[AnnData, str | None]:
    """The cells of `path` and the layer of their counts; variable genes are marked where the file marks none."""
    import scanpy as sc

    adata = read(path)
    layer = "counts" if "counts" in adata.layers else None
    if "highly_variable" not in adata.var and adata.n_vars > 2 * N_GENES:
        logged = adata.copy()
        if layer:
            logged.X = logged.layers[layer]
        sc.pp.normalize_total(logged, target_sum=1e4)
        sc.pp.log1p(logged)
        sc.pp.highly_variable_genes(logged, n_top_genes=N_GENES, batch_key=batch)
        adata.var["highly_variable"] = logged.var["highly_variable"]
    return adata, layer


def same_in_r(out: Path, batch: str, label: str | None) -> None:
    """A Seurat object in, a Seurat object with the reduction "scvi" out; where R with Seurat is here."""
    if not r_with_seurat():
        say("no R with Seurat here, so no demo/seurat.rds: make system-deps installs both (Debian, Ubuntu)")
        return
    say("the same in R")
    library = ROOT / ".make" / "rlib"
    library.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"R_LIBS": str(library), "RETICULATE_PYTHON": sys.executable}
    environment["R_LD_LIBRARY_PATH"] = (
        f"{r_home()}/lib"  # else Debian's libpython may come before the environment's own
    )
    install = ["R", "CMD", "INSTALL", "--no-docs", f"--library={library}", "r-package"]
    subprocess.run(install, cwd=ROOT, env=environment, check=True, capture_output=True)
    script = ["Rscript", "tools/demo.R", str(out.resolve()), batch, label or ""]
    subprocess.run(script, cwd=ROOT, env=environment, check=True)


def r_home() -> str:
    return subprocess.run(["R", "RHOME"], capture_output=True, text=True, check=True).stdout.strip()


def r_with_seurat() -> bool:
    if shutil.which("Rscript") is None:
        return False
    needed = 'quit(status = !all(sapply(c("Seurat", "reticulate"), requireNamespace, quietly = TRUE)))'
    return subprocess.run(["Rscript", "-e", needed], capture_output=True, check=False).returncode == 0


def say(line: str) -> None:
    print(f"[{time.perf_counter() - START:5.0f} s] {line}", flush=True)


if __name__ == "__main__":
    START = time.perf_counter()
    try:
        main()
    except ScduetError as error:
        sys.exit(f"demo: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"demo: {' '.join(error.cmd)} failed: {(error.stderr or b'').decode()[-2000:]}")
