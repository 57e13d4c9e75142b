"""One optimizer step under DeepSpeed, at any ZeRO stage, and its state as full tensors by parameter name."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..config import Runtime, TrainingConfig
from ..precision import autocast
from .distributed import Processes, load_deepspeed
from .task import RunFailed, Task

MOMENTS = ("exp_avg", "exp_avg_sq")
BUCKET = 50_000_000  # elements reduced at once; DeepSpeed's default of 5e8 takes 2 GB for nothing at our sizes


class Forward(nn.Module):
    """The task's module as DeepSpeed sees it: autocast inside, and one scalar to differentiate.

    Parameters and optimizer stay float32 whatever the precision, so DeepSpeed never keeps a second copy.
    """

    def __init__(self, module: nn.Module, precision: str, device: torch.device, compile: bool):
        super().__init__()
        self.module = module
        if compile:
            module.compile()
        self._autocast = autocast(precision, device)

    def forward(self, inputs: Any) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
        """(the sum of the losses, the losses (n,) detached, their names)."""
        with self._autocast:
            losses = self.module(inputs)
            values = torch.stack([loss.float() for loss in losses.values()])
        return values.sum(), values.detach(), list(losses)


class DistributedOptimizer:
    """AdamW on a task's module: `accumulate` each micro-batch of a step, look at `finite`, then `step` or `skip`."""

    def __init__(self, task: Task, config: TrainingConfig, runtime: Runtime, processes: Processes):
        self.module = task.module
        self.device = processes.device
        self.stage = runtime.zero_stage
        self.deepspeed = load_deepspeed()
        self._clip = config.optimizer.clip_grad
        groups = [{"lr_scale": 1.0, **group} for group in task.parameter_groups()]
        self._adamw = torch.optim.AdamW(groups, lr=config.lr, betas=config.optimizer.betas, fused=True)
        settings = {
            "train_batch_size": config.batch_size,
            "gradient_accumulation_steps": len(processes.shards(config, runtime)),
            # At stage 0 we clip with the norm that we measure anyway.
            "gradient_clipping": (self._clip or 0.0) if self.stage else 0.0,
            "zero_optimization": {"stage": self.stage, "reduce_bucket_size": BUCKET, "allgather_bucket_size": BUCKET},
            "timers": {"throughput": {"enabled": False}},  # it would wait for the GPU at every step
            "steps_per_print": None,
        }
        self.engine, *_ = self.deepspeed.initialize(
            model=Forward(task.module, config.precision, self.device, runtime.compile),
            optimizer=self._adamw,
            config=settings,
        )
        if processes.count == 1 and not self.stage:
            self.engine.enable_backward_allreduce = False  # DeepSpeed would copy all gradients to reduce them alone
        self._norm: torch.Tensor  # of the gradients; `finite` measures it
        self._start_states()

    # ---- a step

    def accumulate(self, inputs: Any, last: bool) -> tuple[torch.Tensor, list[str]]:
        """Forward and backward of one micro-batch, the `last` of a step or not. Returns (losses (n,), their names)."""
        total, losses, names = self.engine(inputs)
        self.engine.backward(total)
        if not last:
            self.engine.step()  # counts; DeepSpeed updates at the last one only
        return losses, names

    def finite(self) -> torch.Tensor:
        """Whether the gradients are, as a bool on the device. ZeRO's are spread out and are judged in `step`."""
        if self.stage:
            return torch.ones((), dtype=torch.bool, device=self.device)
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        self._norm = nn.utils.get_total_norm(gradients)
        return self._norm.isfinite()

    def step(self, lr: float) -> bool:
        """Update with the accumulated gradients. False where ZeRO found them not finite and left all as it was."""
        for group in self._adamw.param_groups:
            group["lr"] = lr * group["lr_scale"]
        if not self.stage and self._clip:
            nn.utils.clip_grads_with_norm_(self.module.parameters(), self._clip, self._norm)
        self.engine.step()
        return bool(self.engine.was_step_applied())

    def skip(self) -> None:
        """Forget the accumulated gradients; parameters and moments stay as they are."""
        if self.stage:
            # ZeRO leaves out a step whose gradient norm is not finite, on all processes. A loss can be infinite
            # while its gradients are not, so make sure of it.
            parameter = next(p for p in self.module.parameters() if p.requires_grad)
            shape = getattr(parameter, "ds_shape", parameter.shape)
            value = torch.full(shape, torch.nan, device=self.device)
            self.deepspeed.utils.safe_set_full_grad(parameter, value)
        else:
            self.engine.zero_grad()  # AdamW passes over parameters without a gradient
        self.engine.step()

    @property
    def grad_norm(self) -> float:
        """Of the last step, over all parameters and processes, before clipping."""
        return float(self.engine.get_global_grad_norm() if self.stage else self._norm)

    # ---- state

    def state(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(key, full float32 tensor on the device) of all that the next step depends on; a collective call.

        Keys: parameter/NAME, exp_avg/NAME, exp_avg_sq/NAME, buffer/NAME, and `updates`, the number of updates made.
        """
        for name, parameter in self.module.named_parameters():
            with self._gathered([parameter]):
                value = parameter.detach().clone() if self.stage == 3 else parameter.detach()
            yield f"parameter/{name}", value
            if parameter.requires_grad:
                for moment in MOMENTS:
                    yield f"{moment}/{name}", self._moment(parameter, moment)
        for name, buffer in self.module.named_buffers():
            yield f"buffer/{name}", buffer
        yield "updates", self._states[0]["step"]

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Continue with the moments of a `state`. Its parameters and buffers were loaded before (load_module)."""
        for state in self._states:
            state["step"].copy_(tensors["updates"])
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:
                for moment in MOMENTS:
                    self._set_moment(parameter, moment, tensors[f"{moment}/{name}"].to(self.device))

    def weights(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """The state_dict of `model`, a part of the module, on the CPU; a collective call."""
        weights = {}
        for name, tensor in model.state_dict(keep_vars=True).items():
            with self._gathered([tensor]):
                weights[name] = tensor.detach().cpu().clone()
        return weights

    def load_weights(self, model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
        """Put back what `weights` gave, to evaluate it: training cannot go on from there. A collective call."""
        for name, tensor in model.state_dict(keep_vars=True).items():
            with torch.no_grad(), self._gathered([tensor], changed=True):
                tensor.copy_(weights[name])

    @contextmanager
    def whole(self) -> Iterator[nn.Module]:
        """The module with all its parameters at hand, in eval mode, for an evaluation that calls any part of it."""
        self.module.eval()
        with torch.no_grad(), self._gathered(list(self.module.parameters())):
            yield self.module
        self.module.train()

    def _gathered(self, tensors: list[torch.Tensor], changed: bool = False):
        """`changed`: what the first process makes of them stays."""
        partitioned = [t for t in tensors if hasattr(t, "ds_id")]
        writer = 0 if changed else None
        return self.deepspeed.zero.GatheredParameters(partitioned, modifier_rank=writer, enabled=bool(partitioned))

    def _start_states(self) -> None:
        """Make AdamW's states now rather than at its first step, so that they can be loaded and saved at any time."""
        zero = self.engine.optimizer
        if self.stage == 0:
            flat = [p for group in self._adamw.param_groups for p in group["params"] if p.requires_grad]
        else:
            flat = zero.fp32_partitioned_groups_flat if self.stage == 3 else zero.single_partition_of_fp32_groups
        for tensor in flat:
            zeros = {moment: torch.zeros_like(tensor, requires_grad=False) for moment in MOMENTS}
            self._adamw.state[tensor] = {"step": torch.zeros((), device=tensor.device), **zeros}
        self._states = [self._adamw.state[tensor] for tensor in flat]
        if self.stage in (1, 2):
            zero._lazy_init_hp_params_optimizer_state()  # which lets the safe_get and safe_set functions find them

    def _moment(self, parameter: nn.Parameter, moment: str) -> torch.Tensor:
        if self.stage:
            return self.deepspeed.utils.safe_get_full_optimizer_state(parameter, moment)
        return self._adamw.state[parameter][moment]

    def _set_moment(self, parameter: nn.Parameter, moment: str, value: torch.Tensor) -> None:
        if self.stage == 3:
            # The function for full tensors refuses those that do not divide by the number of processes.
            size = parameter.ds_tensor.numel()  # type: ignore[attr-defined]  # DeepSpeed's
            padded = nn.functional.pad(value.flatten(), (0, size * self.engine.dp_world_size - value.numel()))
            local = padded.narrow(0, size * self.engine.global_rank, size)
            self.deepspeed.utils.safe_set_local_optimizer_state(parameter, local, moment)
        elif self.stage:
            self.deepspeed.utils.safe_set_full_optimizer_state(parameter, value, moment)
        else:
            self._adamw.state[parameter][moment].copy_(value)


def load_module(module: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Put the parameters and buffers of a `DistributedOptimizer.state` into a module that DeepSpeed has not seen yet.

    Raises RunFailed where they are of another module: of another version of the code.
    """
    own: dict[str, torch.Tensor] = {f"parameter/{name}": p for name, p in module.named_parameters()}
    moments = [f"{m}/{name}" for name, p in module.named_parameters() if p.requires_grad for m in MOMENTS]
    own |= {f"buffer/{name}": buffer for name, buffer in module.named_buffers()}
    wrong = [key for key, tensor in own.items() if key not in tensors or tensors[key].shape != tensor.shape]
    wrong += [key for key in (*moments, "updates") if key not in tensors]
    if wrong:
        raise RunFailed(
            f"the checkpoint was written by another version of the code: {wrong[0]} is missing or of another shape, "
            f"the first of {len(wrong)}. Use that version (environment.json names it), or remove the run's folder to "
            "begin anew"
        )
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(tensors[key])
