"""Imports the package scgpt 0.2.4 beside a torch of today, with stand-ins for what it imports and hardly uses."""

from __future__ import annotations

import importlib
import sys
import types
import warnings

import torch

PARTS = ("scgpt.tasks", "scgpt.data_collator", "scgpt.tokenizer", "scgpt.model", "scgpt.preprocess")


class Vocab(torch.nn.Module):
    """What scgpt needs of torchtext.vocab.Vocab: torchtext no longer loads."""

    def __init__(self, names):
        super().__init__()
        self.number = dict(names.number if isinstance(names, Vocab) else {name: i for i, name in enumerate(names)})
        self.default = None

    vocab = property(lambda self: self)

    def __len__(self):
        return len(self.number)

    def __contains__(self, name):
        return name in self.number

    def __getitem__(self, name):
        return self.number.get(name, self.default)

    def forward(self, names):
        return [self[name] for name in names]

    def set_default_index(self, index):
        self.default = index

    def insert_token(self, name, index):
        self.number[name] = index

    def append_token(self, name):
        self.number[name] = len(self.number)

    def get_stoi(self):
        return dict(self.number)


def import_scgpt():
    """The package. Raises ImportError where it is not installed (pip install --no-deps scgpt==0.2.4)."""
    torchtext, vocab = types.ModuleType("torchtext"), types.ModuleType("torchtext.vocab")
    vocab.Vocab, vocab.vocab, torchtext.vocab = Vocab, lambda ordered, min_freq=1: Vocab(ordered), vocab
    ipython, datasets = types.ModuleType("IPython"), types.ModuleType("datasets")
    ipython.get_ipython, datasets.Dataset, datasets.load_dataset = lambda: None, object, None
    stand_ins = {"torchtext": torchtext, "torchtext.vocab": vocab, "IPython": ipython, "datasets": datasets}
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for part in PARTS:
                importlib.import_module(part)
        return importlib.import_module("scgpt")
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
