"""Quality for time: log p(x) of binarized MNIST against seconds of training, ours and the peers', in one run.

    uv run --group bench python benchmarks/quality.py [--quick] [--seconds 600] [--only NAME ...] [--device cpu] [--busy]
                                                      [--json FILE] [--figure FILE]

Pixels are drawn anew in each epoch; the test images were drawn once. Every contestant trains for the same time on one
thread and is evaluated by the same estimator, with refined proposals, on the same test images: the clock stands still
meanwhile. What a figure cannot promise is said beside it, as everywhere: `>=` where k-hat is above 0.7 for more than
5 % of the data. `--busy` counts processor time, which holds on a machine in use. `--quick` is a rehearsal.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timing import pin, wait

if TYPE_CHECKING:
    from pyro_vae import Data, Pair

MARKS = 6  # evaluations of a run: after all of its time, a half, a quarter, ...
GOAL = -90.0  # nats: the time to reach it is in the table


class TimeUp(Exception):
    """A contestant's time is over."""


@dataclass
class Point:
    """What a contestant had reached after so many seconds of training."""

    seconds: float
    log_evidence: float
    stderr: float
    khat_share: float
    elbo: float


@dataclass
class Race:
    """Stops the time of one contestant, and has it evaluated at each mark.

    `epoch` is called after each epoch with a function that returns the pair as it is now.
    """

    seconds: float
    clock: Callable[[], float]
    judge: "Callable[[Pair], dict[str, float]]"
    points: list[Point] = field(default_factory=list)
    epochs: int = 0
    spent: float = 0.0

    def begin(self) -> None:
        self.since = self.clock()

    def epoch(self, pair: "Callable[[], Pair]") -> None:
        """Note an epoch; end when the time is over."""
        self.spent += self.clock() - self.since
        self.epochs += 1
        self._evaluate(pair)
        if self.spent >= self.seconds:
            raise TimeUp
        self.begin()

    def finish(self, pair: "Pair") -> None:
        """End a training that was planned to end about now."""
        self.seconds = self.spent
        self._evaluate(lambda: pair)
        raise TimeUp

    def _evaluate(self, pair: "Callable[[], Pair]") -> None:
        passed = sum(self.spent >= self.seconds / 2**i for i in range(MARKS))
        if passed > len(self.points):
            point = Point(self.spent, **self.judge(pair()))
            self.points += [point] * (passed - len(self.points))
            print(f"    {self.spent:7.0f} s  {shown(point)}", flush=True)


def judging(data: "Data", count: int, num_samples: int, device: str) -> "Callable[[Pair], dict[str, float]]":
    """Return what evaluates a pair on ``count`` test images."""
    import pyro_vae as pv

    batch = {name: values.to(device) for name, values in data.subset("test", count)[0].items()}

    def judge(pair: "Pair") -> dict[str, float]:
        found = pv.log_evidence(pair, batch, num_samples=num_samples)
        return {
            "log_evidence": found.mean,
            "stderr": found.mean_stderr,
            "khat_share": found.khat_share,
            "elbo": found.elbo.mean().item(),
        }

    return judge


def shown(point: Point) -> str:
    """Return a point's log p(x) in words."""
    from pyro_vae.evidence import evidence_words

    return evidence_words(point.log_evidence, point.stderr, point.khat_share, "refined")


def seconds_to(goal: float, points: list[Point]) -> float | None:
    """Return when log p(x) reached the goal, between two evaluations by interpolation in log seconds."""
    before = None
    for point in points:
        if point.log_evidence >= goal:
            if before is None:
                return point.seconds
            share = (goal - before.log_evidence) / (point.log_evidence - before.log_evidence)
            return math.exp(math.log(before.seconds) + share * math.log(point.seconds / before.seconds))
        before = point
    return None


def table(races: dict[str, Race]) -> str:
    """Return the results as Markdown, the best first."""
    lines = [
        f"| contestant | log p(x), nats | ELBO | epochs | seconds | to {GOAL:.0f} |",
        "|---|---|---|---|---|---|",
    ]
    for name, race in sorted(races.items(), key=lambda item: -item[1].points[-1].log_evidence):
        last, reached = race.points[-1], seconds_to(GOAL, race.points)
        lines.append(
            f"| {name} | {shown(last)} | {last.elbo:.2f} | {race.epochs} | {last.seconds:.0f} | "
            f"{'-' if reached is None else f'{reached:.0f} s'} |"
        )
    return "\n".join(lines)


def draw(races: dict[str, Race], path: Path) -> None:
    """Draw log p(x) against seconds."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for name, race in races.items():
        line = "o-" if name.startswith("pyro_vae") else "s--"
        axes.plot([p.seconds for p in race.points], [p.log_evidence for p in race.points], line, label=name, ms=4)
    axes.set(xscale="log", xlabel="seconds of training", ylabel="log p(x), nats per test image")
    axes.legend(fontsize="small", frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(path)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="twenty seconds each, 50 test images")
    parser.add_argument("--seconds", type=float, help="of training for each contestant (600)")
    parser.add_argument("--test", type=int, help="test images (1000)")
    parser.add_argument("--samples", type=int, help="draws per image (1000)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="contestants whose names begin so")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--busy", action="store_true", help="count processor time")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    for name, quick, full in (("seconds", 20.0, 600.0), ("test", 50, 1000), ("samples", 200, 1000)):
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else full)
    if options.busy and options.device != "cpu":
        parser.error("--busy counts processor time, which says nothing of a device's: leave it out")
    return options


def main() -> None:
    options = arguments()
    pin(1, options.device)
    from trainees import TRAINEES

    import pyro_vae as pv

    chosen = {
        name: train
        for name, train in TRAINEES.items()
        if options.only is None or any(name.startswith(begin) for begin in options.only)
    }
    if not chosen:
        raise SystemExit(f"--only {' '.join(options.only)} names no contestant; there are: {', '.join(TRAINEES)}")
    data = pv.load_data("mnist", binarize="dynamic")
    judge = judging(data, options.test, options.samples, options.device)

    def clock() -> float:
        wait(options.device)
        return time.process_time() if options.busy else time.perf_counter()

    races: dict[str, Race] = {}
    left_out: dict[str, str] = {}
    for name, train in chosen.items():
        print(name, flush=True)
        race = Race(options.seconds, clock, judge)
        try:
            train(data, race, options.device)
        except TimeUp:
            races[name] = race
        except ImportError as missing:
            left_out[name] = f"{missing.name} is not installed"
            print(f"    left out: {left_out[name]}", flush=True)
        except KeyboardInterrupt:
            left_out[name] = "stopped, and those after it"
            break
    report(options, races, left_out)


def report(options: argparse.Namespace, races: dict[str, Race], left_out: dict[str, str]) -> None:
    kind = "processor seconds" if options.busy else "seconds"
    print(f"\n{options.test} test images, {options.samples} draws per image, {kind}, one thread, {options.device}\n")
    print(table(races))
    for name, reason in left_out.items():
        print(f"\n{name}: left out, {reason}")
    if options.figure:
        draw(races, options.figure)
    if options.json:
        results: dict[str, Any] = {
            "settings": {name: value for name, value in vars(options).items() if name not in ("json", "figure")},
            "points": {name: [asdict(point) for point in race.points] for name, race in races.items()},
            "epochs": {name: race.epochs for name, race in races.items()},
            "left_out": left_out,
        }
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
