"""The training loop: fp32 master weights, arithmetic in `DTYPE`, a schedule over steps.

The vision tower first learns what each patch shows (`Patches`, dropped from the checkpoint), from
pictures of a single tile, while the language model learns to talk; after `ALONE` of the steps
the two are joined on whole pictures and questions about them, and the rate begins to fall: at its
height no comparison of two shapes is learned. What the first cross-attention layer makes of a
shape's name must tell the shape's place (`place`, dropped as well).
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from training import batches, checkpoint, model, tokenizer
from training.batches import IGNORED, Batch, Pictures, Text
from training.pictures import CELLS, COLOUR_NAMES, SHAPES

ALONE = 0.25  # share of the steps before pictures meet questions
TOGETHER = 0.2  # weight of the patch loss once questions are asked
NAMED = 1.0  # weight of the places of named shapes
WARM_UP = 200  # steps


# Where bfloat16 is emulated an operation takes seventy times as long as in float32.
DTYPE = torch.bfloat16 if torch.cpu._is_avx512_supported() else torch.float32


@dataclass(frozen=True)
class Plan:
    steps: int = 3600
    pictures: int = 24  # canvases to a step
    talks: int = 24  # text-only conversations to a step, half of them beside questions on pictures
    rate: float = 1.5e-3
    weight_decay: float = 0.05
    seed: int = 0
    threads: int = 2
    workers: int = 1
    compile: bool = True
    save_every: float = 180.0  # seconds
    print_every: int = 25  # steps


# Half a minute on one core, without the wait for a compiler: enough to see the loss fall.
SMOKE = {
    "steps": 32, "pictures": 4, "talks": 4, "compile": False, "workers": 0,
    "print_every": 8, "rate": 4e-3, "threads": 1,
}  # fmt: skip


class Patches(nn.Module):
    """What each patch shows, told from a layer's states; `pictures.PatchTargets` has the truth.

    The mask asks for the outline, whatever pair of colours it is drawn in.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = (len(SHAPES) + 1, len(COLOUR_NAMES), 1, 2, CELLS * CELLS)
        self.head = nn.Linear(width, sum(self.sizes))
        self.count = nn.Linear(width, 4)

    def forward(self, states: Tensor, truth: Pictures) -> tuple[Tensor, Tensor]:
        """(loss, share of patches on shapes told right); states: (B, tiles, 1 + patches, C).

        The class token of every tile tells the number of shapes in the picture.
        """
        patches = self.head(states[:, :, 1:]).float()
        shape, colour, centre, place, mask = patches.split(self.sizes, dim=-1)
        count = self.count(states[:, :, 0]).float().flatten(0, 1)
        weights = torch.ones(self.sizes[0])
        weights[-1] = 0.3  # most patches are background
        inside = truth.shape >= 0
        on_shape = inside & (truth.shape < len(SHAPES))
        heat = F.binary_cross_entropy_with_logits(
            centre.squeeze(-1)[inside], truth.centre[inside].float(), pos_weight=torch.tensor(5.0)
        )
        outline = F.binary_cross_entropy_with_logits(mask[on_shape], truth.mask[on_shape].float())
        right = (shape[on_shape][:, :-1].argmax(-1) == truth.shape[on_shape]).float().mean()
        loss = (
            2
            * F.cross_entropy(shape.flatten(0, 2), truth.shape.flatten(), weights, ignore_index=-1)
            + F.cross_entropy(colour.flatten(0, 2), truth.colour.flatten(), ignore_index=-1)
            + 2 * outline
            + F.cross_entropy(count, truth.count.flatten(), ignore_index=-1)
            + 3 * heat
            + 3 * F.l1_loss(place[on_shape], truth.place[on_shape])
        )
        return loss, right


@dataclass
class Tally:
    """Running sums since the last printed line."""

    loss: float = 0.0
    patches: float = 0.0
    shapes: float = 0.0  # share of patches on shapes told right
    places: float = 0.0  # error of named shapes' places, over the picture's size
    steps: int = 0
    answers: dict[str, list[int]] = field(default_factory=dict)  # name: [right, asked]

    def count(self, name: str, right: int, asked: int) -> None:
        entry = self.answers.setdefault(name, [0, 0])
        entry[0] += right
        entry[1] += asked


def exact_answers(predicted: Tensor, labels: Tensor) -> tuple[int, int]:
    """(answers right in every token, answers): what greedy decoding would get right.

    predicted, labels: (B, T) token ids; a run of labels is one answer.
    """
    spoken = labels != IGNORED
    starts = spoken & ~F.pad(spoken, (1, 0))[:, :-1]
    number = starts.flatten().cumsum(0)[spoken.flatten()] - 1
    asked = int(starts.sum())
    wrong = (predicted != labels)[spoken].long()
    return asked - int(torch.zeros(asked).index_add_(0, number, wrong.float()).gt(0).sum()), asked


class Trainer:
    """Model, master weights and optimiser; `step` trains on one batch."""

    def __init__(self, plan: Plan, words: Tokenizer) -> None:
        torch.manual_seed(plan.seed)
        self.plan, self.words = plan, words
        self.config = model.configuration(model.token_ids(words))
        self.model = model.Mllama(self.config)
        model.initialise(self.model)
        width = self.config.vision_config.hidden_size
        self.patches = nn.ModuleList([Patches(width), Patches(width)])
        self.place = nn.Linear(self.config.text_config.hidden_size, 2)
        self.masters = [p.detach().clone() for p in self._parameters()]
        for part in (self.model, self.patches, self.place):
            part.to(DTYPE)
        matrices = [p for p in self.masters if p.ndim > 1]
        others = [p for p in self.masters if p.ndim <= 1]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": plan.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=plan.rate,
            betas=(0.9, 0.97),
            fused=True,
        )
        self.steps_done = 0
        self.see, self.read = self.model.see, self.model.read
        if plan.compile:
            self.see = torch.compile(self.see, dynamic=False)
            self.read = torch.compile(self.read, dynamic=False)

    def _parameters(self) -> list[nn.Parameter]:
        return [*self.model.parameters(), *self.patches.parameters(), *self.place.parameters()]

    def progress(self) -> float:
        return self.steps_done / self.plan.steps

    def rate(self) -> float:
        """Warm up, hold, then fall along a cosine to a hundredth."""
        falling = max(0.0, (self.progress() - ALONE) / (1 - ALONE))
        fall = 0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * falling))
        return self.plan.rate * min(1.0, (self.steps_done + 1) / WARM_UP) * fall

    def _language_loss(self, hidden: Tensor, text: Text, name: str, tally: Tally) -> Tensor:
        """Summed over the assistant's tokens."""
        chosen = text.labels != IGNORED
        logits = self.model.logits(hidden[chosen]).float()
        predicted = torch.full_like(text.labels, IGNORED)
        predicted[chosen] = logits.detach().argmax(-1)
        tally.count(name, *exact_answers(predicted, text.labels))
        return F.cross_entropy(logits, text.labels[chosen], reduction="sum")

    def _vision_loss(self, seen: Tensor, pictures: Pictures, tally: Tally) -> Tensor:
        """The patch losses of the tower's output and, by half, of its last intermediate states."""
        vision = self.config.vision_config
        output = seen[..., : vision.hidden_size]
        depth = len(vision.intermediate_layers_indices)
        inner = seen[..., vision.hidden_size :].unflatten(-1, (-1, depth))[..., -1]
        loss, right = self.patches[0](output, pictures)
        tally.patches += float(loss.detach())
        tally.shapes += float(right)
        return loss + 0.5 * self.patches[1](inner, pictures)[0]

    def _place_loss(self, looked: Tensor, named: Tensor, tally: Tally) -> Tensor:
        """Mean error of the places that names tell; looked: (B, T, C), named: `batches.Text`'s."""
        chosen = ~named[..., 0].isnan()
        told = self.place(looked[chosen]).float()
        loss = F.l1_loss(told, named[chosen], reduction="sum") / max(1, named[chosen].numel())
        tally.places += float(loss.detach())
        return loss

    def step(self, batch: Batch, tally: Tally) -> None:
        pictures = batch.pictures
        pixels = model.normalise(pictures.tiles, pictures.tile_mask, DTYPE)
        apart = batch.about is None
        seen = self.see(pixels, pictures.ratio_ids, pictures.tile_mask, apart)
        vision = self._vision_loss(seen, pictures, tally)
        places = 0.0
        hidden, _ = self.read(batch.talk.ids)
        language = self._language_loss(hidden, batch.talk, "talk", tally)
        tokens = int((batch.talk.labels != IGNORED).sum())
        if batch.about is not None:
            hidden, looked = self.read(batch.about.ids, seen, pictures.tile_mask)
            places = NAMED * self._place_loss(looked, batch.about.named, tally)
            language = language + self._language_loss(hidden, batch.about, "pictures", tally)
            tokens += int((batch.about.labels != IGNORED).sum())
        (language / tokens + places + (1.0 if apart else TOGETHER) * vision).backward()
        self._update()
        tally.loss += float(language.detach()) / tokens
        tally.steps += 1
        self.steps_done += 1

    @torch.no_grad()
    def _update(self) -> None:
        parameters = self._parameters()
        for master, parameter in zip(self.masters, parameters, strict=True):
            grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            master.grad = grad.float()
            parameter.grad = None
        torch.nn.utils.clip_grad_norm_(self.masters, 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        self.optimiser.step()
        torch._foreach_copy_(parameters, self.masters)

    def weights(self) -> dict[str, Tensor]:
        """The model's master weights by name, without the patch head."""
        names = [name for name, _ in self.model.named_parameters()]
        return dict(zip(names, self.masters[: len(names)], strict=True))

    def save(self, folder: Path) -> None:
        """The checkpoint, and what `resume` needs beside it."""
        checkpoint.save(self.weights(), self.config, self.words, folder / "checkpoint")
        state = {
            "masters": self.masters,
            "optimiser": self.optimiser.state_dict(),
            "steps": self.steps_done,
        }
        torch.save(state, folder / "state.partial")
        (folder / "state.partial").replace(folder / "state.pt")

    @torch.no_grad()
    def resume(self, folder: Path) -> None:
        state = torch.load(folder / "state.pt")
        for master, saved in zip(self.masters, state["masters"], strict=True):
            master.copy_(saved)
        torch._foreach_copy_(self._parameters(), self.masters)
        self.optimiser.load_state_dict(state["optimiser"])
        self.steps_done = state["steps"]


def _report(trainer: Trainer, tally: Tally, seconds: float) -> None:
    shares = "  ".join(f"{k} {r / max(1, n):.3f}" for k, (r, n) in sorted(tally.answers.items()))
    places = f"  places {tally.places / tally.steps:.3f}" if tally.places else ""
    left = (trainer.plan.steps - trainer.steps_done) * seconds / tally.steps / 60
    print(
        f"step {trainer.steps_done} of {trainer.plan.steps}  loss {tally.loss / tally.steps:.3f}"
        f"  patches {tally.patches / tally.steps:.3f}{places}"
        f"  right: shapes {tally.shapes / tally.steps:.3f}  {shares}"
        f"  {tally.steps * trainer.plan.pictures / seconds:.0f} pictures/s"
        f"  {left:.0f} min left",
        flush=True,
    )


def run(plan: Plan, folder: Path) -> list[float]:
    """Train into `folder`, going on from a state found there; the printed language losses."""
    torch.set_num_threads(plan.threads)
    folder.mkdir(parents=True, exist_ok=True)
    saved = folder / "tokenizer.json"
    if not saved.exists():
        tokenizer.train(plan.seed).save(str(saved))
    words = Tokenizer.from_file(str(saved))
    trainer = Trainer(plan, words)
    if (folder / "state.pt").exists():
        trainer.resume(folder)
    losses: list[float] = []
    for single, until in ((True, ALONE), (False, 1.0)):
        if trainer.progress() >= until:
            continue
        seed = plan.seed + trainer.steps_done
        talks = plan.talks if single else plan.talks // 2
        source = batches.stream(words, plan.pictures, talks, seed, plan.workers, single)
        losses += _train(trainer, source, folder, until)
    trainer.save(folder)
    return losses


def _train(
    trainer: Trainer, source: Iterator[Batch], folder: Path, until: float
) -> Iterator[float]:
    """Go on to that share of the plan; yields the printed language losses."""
    plan, tally = trainer.plan, Tally()
    printed = saved = time.monotonic()
    while trainer.progress() < until:
        trainer.step(next(source), tally)
        now = time.monotonic()
        if trainer.steps_done % plan.print_every == 0:
            _report(trainer, tally, now - printed)
            yield tally.loss / tally.steps
            tally, printed = Tally(), now
        if now - saved > plan.save_every:
            trainer.save(folder)
            saved = now
