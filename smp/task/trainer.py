"""Learn masks with transformers' Trainer, for any task head.

The script passes a `Pruning`, as `fit` takes it. The order in a step is that of `fit`: masks,
forward, backward, regulariser, clipping, step.
"""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch.nn.utils import parametrize
from transformers import Trainer, TrainerCallback

from smp.files import replaced_file
from smp.model.save import model_setup
from smp.task import mask_settings as checks
from smp.task.heads import encoder_fingerprint
from smp.task.mask_folder import describe_trained, save_mask_folder
from smp.text import is_number

SCORES_FILE = "scores.safetensors"  # of a checkpoint folder


class MaskSchedule(TrainerCallback):
    """Choose the masks before the first batch of a step, and the final ones at the end."""

    def __init__(self, pruning: Any):
        self.pruning = pruning

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.pruning.before_forward(state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:  # before the last evaluation and checkpoint
            self.pruning.finish()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.pruning.finish()  # also if the training stopped early


class SMPTrainer(Trainer):
    """Trainer of transformers that learns masks: pruning is a `Pruning` on masks of the model.

    Each checkpoint contains scores, masks, and a stock model with the masked weights. After `train`
    the density is exact; then `save_mask` or `merge`. `class Mine(SMPTrainer, Seq2SeqTrainer)` adds
    masks to another Trainer. Raises ValueError with one line for what masks do not support.
    """

    def __init__(self, model: Any = None, args: Any = None, *others: Any, pruning: Any,
                 **options: Any):
        checks.check_trainer_arguments(args, options)
        checks.check_masked(model, pruning)
        self.pruning, self.masks = pruning, pruning.masks
        self.base_sha = encoder_fingerprint(model)
        checks.freeze_shared(model, pruning)
        if args is not None and args.ddp_broadcast_buffers is None:
            args.ddp_broadcast_buffers = False  # each process chooses the same masks
        super().__init__(model, args, *others, **options)
        self.model_accepts_loss_kwargs = False  # the losses of encoder heads are means
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError("accelerate is configured for FSDP or DeepSpeed, which shard the "
                             "weights: choose plain data parallelism in `accelerate config`")
        self.setup = model_setup(model, self.processing_class) if self.processing_class else {}
        self.add_callback(MaskSchedule(pruning))
        self.logged = {name: mask.mask.clone() for name, mask in self.masks.masks.items()}
        if self.is_world_process_zero():
            print(checks.what_is_trained(model, pruning))

    def create_optimizer(self, *arguments: Any) -> Any:
        """Return Trainer's optimizer with one more group: the scores, without weight decay."""
        scores, made = self.masks.scores, self.optimizer is None
        for score in scores:
            score.requires_grad_(not made)  # Trainer's groups are those of the head
        optimizer = super().create_optimizer(*arguments)
        for score in scores:
            score.requires_grad_(True)
        if made and scores:
            optimizer.add_param_group({"params": scores, "weight_decay": 0.0,
                                       "lr": self.pruning.settings.learning_rate})
        members = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not members.issuperset(map(id, scores)):
            raise ValueError("the optimizer lacks the scores: create it after the masks, from "
                             "parameters that require gradients, or leave it to SMPTrainer")
        return optimizer

    def training_step(self, *arguments: Any, **options: Any) -> torch.Tensor:
        """Take Trainer's step, and add the regulariser after the last backward before clipping."""
        loss = super().training_step(*arguments, **options)
        if self.accelerator.sync_gradients:
            scaler, weight = self.accelerator.scaler, self.pruning.weight
            self.pruning.weight *= scaler.get_scale() if scaler else 1  # gradients are scaled too
            self.pruning.after_backward(self.state.global_step, self.state.max_steps)
            self.pruning.weight = weight
        return loss

    def log(self, logs: dict[str, float], *arguments: Any, **options: Any) -> None:
        """Log density, regulariser, and the share of mask entries changed since the log before."""
        if "loss" in logs:
            changed = total = 0
            for name, mask in self.masks.masks.items():
                changed += int((mask.mask != self.logged[name].to(mask.mask.device)).sum())
                total += mask.mask.numel()
                self.logged[name] = mask.mask.clone()
            logs |= {"density": self.pruning.density, "regulariser": self.pruning.weight,
                     "mask_changed": changed / total}
        super().log(logs, *arguments, **options)

    def merged_state(self) -> dict[str, torch.Tensor]:
        """Return the state of a stock model with the masked weights, without scores and masks."""
        state = {name: tensor for name, tensor in self.model.state_dict().items()
                 if ".parametrizations.weight." not in name}
        prefix = self.model.base_model_prefix
        inside = f"{prefix}." if self.model.base_model is not self.model else ""
        return state | {f"{inside}{name}.weight": linear.weight.detach()
                        for name, _, _, linear in self.masks.matrices}

    def trained_tensors(self) -> dict[str, torch.Tensor]:
        """Return {name: tensor} of what is trained, and of the masks, for a checkpoint."""
        buffers = {name: buffer for name, buffer in self.model.named_buffers()
                   if name.endswith(".mask")}
        return {name: parameter.data for name, parameter in self.model.named_parameters()
                if parameter.requires_grad} | buffers

    def about_run(self) -> dict[str, str]:
        """Return what must be equal when a run continues, as metadata of the checkpoint."""
        settings = {name: value for name, value in vars(self.pruning.settings).items()
                    if is_number(value)}
        return {"base": self.base_sha, "settings": json.dumps(settings, sort_keys=True)}

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Write a stock model with the masked weights, and its scores and masks."""
        folder = Path(output_dir or self.args.output_dir)
        masked = parametrize.is_parametrized(self.masks.matrices[0][3])  # not merged yet
        super()._save(str(folder), self.merged_state() if masked else state_dict)
        if self.args.should_save and masked:
            tensors = {name: tensor.cpu().contiguous()
                       for name, tensor in self.trained_tensors().items()}
            with replaced_file(folder / SCORES_FILE) as draft:
                safetensors.torch.save_file(tensors, draft, self.about_run())

    @torch.no_grad()
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Restore scores, masks and head of a checkpoint that `_save` wrote."""
        path = Path(resume_from_checkpoint, SCORES_FILE)
        if not path.is_file():
            raise ValueError(f"{path.parent} has no {SCORES_FILE}, so SMPTrainer did not write it: "
                             "start again without resume_from_checkpoint")
        with safe_open(path, framework="pt") as file:
            before, own = file.metadata() or {}, self.trained_tensors()
            for name, value in self.about_run().items():
                if before.get(name) != value:
                    raise ValueError(f"{path.parent}: its {name} is {before.get(name)}, this run's "
                                     f"{value}; use the same, or another output_dir")
            if own.keys() != set(file.keys()):
                raise ValueError(f"{path}: other matrices or another head; use the same model")
            for name, tensor in own.items():
                tensor.copy_(file.get_tensor(name))

    def merge(self) -> Any:
        """Write the masked weights into the model, remove the masks, and return the stock model."""
        self.masks.merge()
        return self.model

    def save_mask(self, folder: Path | str, **about: Any) -> int:
        """Write the task's folder and return the bytes of its mask file; see `save_mask_folder`.

        about: for the card, for example name, data, license and metrics, {"accuracy": 0.9}. Raises
        ValueError if the weights were trained.
        """
        if self.masks.trains_weights:
            raise ValueError("this method trained the weights, which a mask file does not contain: "
                             "use merge() and save_model")
        described = describe_trained(self.model, self.masks, self.base_sha, self.setup)
        settings = json.loads(self.about_run()["settings"])
        described |= {"density": self.pruning.density, "settings": settings}
        return save_mask_folder(self.masks.numpy(), folder, **described | about)
