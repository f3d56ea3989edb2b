"""Lightning's callbacks as listeners of our training, which has epochs and no trainer of Lightning's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from scduet.errors import OptionError, some
from scduet.events import Event, silent

BEFORE, AFTER = ("setup", "on_fit_start", "on_train_start"), ("on_train_end", "on_fit_end")
EACH = ("on_train_epoch_end", "on_validation_epoch_end", "on_validation_end")
INSTEAD = {  # callbacks of Lightning and scvi-tools: what to use here
    "EarlyStopping": "pass early_stopping=True",
    "LoudEarlyStopping": "pass early_stopping=True",
    "ModelCheckpoint": "use scduet.fit(checkpoint=)",
    "SaveCheckpoint": "use scduet.fit(checkpoint=), or early_stopping=True to keep the best weights",
    "JaxModuleInit": "leave it out",
    "ScibCallback": "use scduet.score after training",
}
WITHOUT_EFFECT = ("LearningRateMonitor", "ProgressBar", "RichProgressBar", "TQDMProgressBar", "SubSampleLabels")


@dataclass
class Trainer:
    """What a callback may ask of Lightning's trainer."""

    max_epochs: int
    current_epoch: int = 0
    should_stop: bool = False
    callback_metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def logged_metrics(self) -> Mapping[str, float]:
        return self.callback_metrics


class Callbacks:
    """A listener that calls the hooks of `callbacks`, and those that are functions with the event itself."""

    def __init__(self, callbacks, model: Any, metrics: Callable[[Mapping[str, float]], Mapping[str, float]], shown):
        self.functions = [one for one in callbacks if not _hooks(one)]
        self.hooked = [(one, _hooks(one)) for one in callbacks if _hooks(one)]
        known = some((*BEFORE, *EACH, *AFTER), 9)
        for one in self.functions:
            name = type(one).__name__
            if not callable(one) and name not in WITHOUT_EFFECT:
                remedy = INSTEAD.get(name, f"pass a function of scduet's Event, or an object with {known}")
                raise OptionError(f"callbacks: {name} has no counterpart here", remedy)
        for one, hooks in self.hooked:
            strange = hooks - {*BEFORE, *EACH, *AFTER}
            if strange:
                what = f"callbacks: {type(one).__name__} has the hooks {some(sorted(strange))}"
                raise OptionError(what, f"those that are called: {known}")
        self.model, self.metrics, self.shown, self.trainer = model, metrics, shown, None

    def __call__(self, event: Event) -> bool:
        asked = [bool(one(event)) for one in (self.shown, *self.functions) if callable(one)]
        if event.kind == "progress":
            if self.trainer is None:
                self.trainer = Trainer(event.total)
                self.call(BEFORE)
            self.trainer.current_epoch, self.trainer.callback_metrics = event.done - 1, self.metrics(event.terms)
            validated = any(name.endswith("_validation") for name in event.terms)
            self.call(EACH if validated else EACH[:1])
            asked.append(self.trainer.should_stop)
        return any(asked)

    def close(self) -> None:
        getattr(self.shown, "close", lambda: None)()

    def ended(self) -> None:
        """Call the hooks of the end of training."""
        if self.trainer is not None:
            self.call(AFTER)

    def call(self, hooks: tuple[str, ...]) -> None:
        for one, known in self.hooked:
            for hook in hooks:
                if hook in known:
                    more = ("fit",) if hook == "setup" else ()
                    getattr(one, hook)(self.trainer, self.model, *more)


def _hooks(callback: Any) -> set[str]:
    """The hooks that its class defines itself; none of a class that comes with Lightning or scvi-tools."""
    foreign = ("lightning", "pytorch_lightning", "scvi", "builtins")
    own = [cls for cls in type(callback).__mro__ if cls.__module__.split(".")[0] not in foreign]
    return {name for cls in own for name in vars(cls) if name.startswith("on_") or name == "setup"}


def listener(callbacks, model: Any, metrics, progress_bar: bool) -> Callbacks | Callable[[Event], None] | None:
    """The listener of a training; None for the default progress display."""
    from scduet.train.progress import default_listener

    if not callbacks:
        return None if progress_bar else silent
    some_ = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]
    return Callbacks(some_, model, metrics, default_listener() if progress_bar else silent)
