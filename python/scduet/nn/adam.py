"""Adam with minimal overhead: for small models, torch's bookkeeping takes longer than the arithmetic."""

from __future__ import annotations

from scduet._torch import torch

from torch import Tensor


class Adam(torch.optim.Adam):
    """torch's fused Adam (Kingma & Ba 2015), with bit-exact results and the same state.

    On a CPU, if every step updates all weights, one call updates them with a common step counter.
    """

    _together: tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]] | None = None  # counter, weights, both means

    def __init__(self, params, **options):
        super().__init__(params, fused=True, **options)

    @torch.no_grad()
    def step(self, closure=None):
        group = self.param_groups[0]
        gradients = [weight.grad for weight in group["params"]]
        if closure is not None or self._together is None or not self._fits(gradients):
            return self._usual(closure)
        counter, weights, first, second = self._together
        counter += 1
        (beta1, beta2), steps = group["betas"], [counter] * len(weights)
        options = {"lr": group["lr"], "weight_decay": group["weight_decay"], "eps": group["eps"]}
        rest = {"beta1": beta1, "beta2": beta2, "amsgrad": False, "maximize": False}
        torch._fused_adam_(weights, gradients, first, second, [], steps, **options, **rest)
        return None

    step.hooked = True  # type: ignore[attr-defined]  # torch's wrapper, which checks for hooks, takes a tenth of the time

    def zero_grad(self, set_to_none: bool = True) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                weight.grad = None

    def state_dict(self):
        self._settle()
        return super().state_dict()

    def __getstate__(self):
        self._settle()
        return super().__getstate__()

    def load_state_dict(self, state_dict) -> None:
        super().load_state_dict(state_dict)
        self._together = None

    def _usual(self, closure):
        """Take a step with torch's implementation, after which the next may use the fast path."""
        self._settle()
        self._together = None
        result = super().step(closure)
        weights = self.param_groups[0]["params"]
        states = [self.state.get(weight, {}) for weight in weights]
        on_cpu = all("exp_avg" in state and state["exp_avg"].device.type == "cpu" for state in states)
        if len(self.param_groups) == 1 and on_cpu and len({float(state["step"]) for state in states}) == 1:
            first, second = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
            self._together = states[0]["step"].clone(), weights, first, second
        return result

    def _fits(self, gradients: list[Tensor | None]) -> bool:
        """Whether all weights have gradients, the state is unchanged from outside, and gradients are not scaled."""
        assert self._together is not None
        _, weights, first, _ = self._together
        stays = self.state[weights[0]]["exp_avg"] is first[0] and getattr(self, "grad_scale", None) is None
        return stays and all(gradient is not None for gradient in gradients)

    def _settle(self) -> None:
        """Write the common step counter to the state of each weight."""
        if self._together is not None:
            for weight in self._together[1]:
                self.state[weight]["step"].copy_(self._together[0])
