"""`python -m training tokenizer | train | evaluate | smoke`."""

import argparse
import os
from dataclasses import replace
from pathlib import Path

RUNS = Path(__file__).parent / "runs"
# What `train.Plan` says unless it is given.
PLAN = {
    "steps": (int, None),
    "pictures": (int, "to a step"),
    "talks": (int, "text conversations to a step"),
    "rate": (float, "the highest learning rate"),
    "seed": (int, None),
    "threads": (int, None),
}
SHIPPED = Path(__file__).parent.parent / "checkpoint"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training")
    commands = parser.add_subparsers(dest="command", required=True)

    words = commands.add_parser("tokenizer", help="train the tokenizer alone")
    words.add_argument("--out", type=Path, default=RUNS / "tokenizer")

    train = commands.add_parser("train", help="train, or go on with a run that was stopped")
    train.add_argument("--out", type=Path, default=RUNS / "main")
    for name, (kind, help_) in PLAN.items():
        train.add_argument(f"--{name}", type=kind, default=argparse.SUPPRESS, help=help_)

    evaluate = commands.add_parser("evaluate", help="sit the exam")
    evaluate.add_argument("--checkpoint", type=Path, default=SHIPPED)
    evaluate.add_argument("--each", type=int, default=500, help="questions to a topic")
    evaluate.add_argument("--seed", type=int, default=1)
    evaluate.add_argument("--threads", type=int, default=2)
    evaluate.add_argument("--verbose", action="store_true", help="list the mistakes")

    smoke = commands.add_parser("smoke", help="half a minute of training; the loss must fall")
    smoke.add_argument("--out", type=Path, default=RUNS / "smoke")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    # On a busy machine unbound threads end up on one core, and spinning ones steal the other.
    os.environ.setdefault("OMP_PROC_BIND", "true")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Imported late: torch and transformers take seconds, and `--help` needs neither.
    from training import evaluate, tokenizer, train

    if arguments.command == "tokenizer":
        tokenizer.save(tokenizer.train(), arguments.out)
    elif arguments.command == "train":
        given = {key: value for key, value in vars(arguments).items() if key in PLAN}
        train.run(train.Plan(**given), arguments.out)
    elif arguments.command == "evaluate":
        evaluate.run(
            arguments.checkpoint,
            arguments.seed,
            arguments.each,
            arguments.threads,
            arguments.verbose,
        )
    else:
        losses = train.run(replace(train.Plan(), **train.SMOKE), arguments.out)
        if losses[-1] > 0.75 * losses[0]:
            raise SystemExit(f"the loss did not fall: {losses}")


if __name__ == "__main__":
    main()
