"""What watching a training costs: `python -m benchmarks.watching [--seconds 70] [--peers] [--markdown FILE]`.

Each loop bare, with norms at every step, and under `gradtrace.watch` as it comes, side by side in one process;
"bare again" is a second bare twin, and shows what the method can tell apart. With --peers the others that look at
training, each against a bare twin of its own.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from benchmarks.loops import LOOPS
from benchmarks.readings import Reading, calm_rounds, read
from benchmarks.twins import Turns
from benchmarks.ways import AIMS, OURS, PEERS, is_installed
from rich.console import Console
from rich.markup import escape
from rich.table import Table

BLOCK_S = 0.5
"""[seconds] Of bare steps in one turn: in a shorter one it is the change of twins that counts."""

PEER_S, PEER_BLOCK_S = 3.0, 0.25
"""[seconds] Others take up to six times as long, and some keep every activation."""


@dataclass(frozen=True, slots=True)
class Line:
    """A loop watched in one way; `reading` is None where what it needs is not installed."""

    way: str
    bare_s: float = 0.0
    reading: Reading | None = None
    turns: Turns | None = None

    def cells(self) -> list[str]:
        if self.reading is None or self.turns is None:
            return [self.way, "", "not installed", *[""] * 8]
        reading, turns = self.reading, self.turns
        return [
            self.way if turns.same_weights else f"{self.way} (OTHER WEIGHTS)",
            f"{self.bare_s * 1e3:.1f}",
            *(str(ratio) for ratio in (reading.wall, reading.early, reading.second_half, reading.cpu)),
            f"{reading.typical:.3f}",
            "" if turns.spent_frac is None else f"{turns.spent_frac:.2%}",
            "" if turns.measured_frac is None else f"{turns.measured_frac:.0%}",
            f"{(turns.begin_s + turns.end_s) * 1e3:.0f}",
            " / ".join(f"{aim:.2f}" for aim in AIMS.get(self.way, ())),
        ]

    @property
    def reached(self) -> bool | None:
        """Whether the aim is; None where there is none."""
        if self.reading is None or self.way not in AIMS:
            return None
        whole, early = AIMS[self.way]
        return self.reading.wall.value <= whole and self.reading.early.value <= early


HEADINGS = (
    "watched by", "bare [ms]", "time, x bare", "first 30 s", "second half", "CPU time, x bare", "median", "own account",
    "measured", "begin + end [ms]", "aims",
)  # fmt: skip

LEGEND = (
    "x bare: of the totals, with the 95 % interval; aims: of the whole run / of its first 30 s; "
    "bare [ms]: of the fastest block; median: of the rounds, without "
    "rare events; own account: what the watch says it took; measured: share of the steps whose norms were taken. "
    "Watched twins end with the very weights of the bare one, where nothing else is said. "
    "Not installed: pip install '.[peers]'."
)


def lines(loop: str, ways: tuple[str, ...], seconds: float, block_s: float, threads: int) -> list[Line]:
    """One process; the bare twin comes first."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "turns.json"
        names = json.dumps(["bare", *ways])
        arguments = [loop, names, str(seconds), str(block_s), str(threads), str(path)]
        subprocess.run([sys.executable, "-W", "ignore::UserWarning", "-m", "benchmarks.twins", *arguments], check=True)
        turns = {way: Turns(**record) for way, record in json.loads(path.read_text()).items()}
    calm = calm_rounds(list(turns.values()))
    bare_s = min(seconds for seconds in turns["bare"].wall_s if seconds) / turns["bare"].block
    return [Line(way, bare_s, read(turns[way], turns["bare"], calm), turns[way]) for way in ways]


def heading(seconds: float, threads: int) -> str:
    return (
        f"Training under watch, {seconds:g} s of bare steps (others: {min(PEER_S, seconds):g} s), "
        f"torch {torch.__version__}, {platform.machine()}, {threads or torch.get_num_threads()} threads"
    )


def as_table(loop: str, found: list[Line]) -> Table:
    table = Table(title=loop, title_justify="left")
    for i, name in enumerate(HEADINGS):
        table.add_column(escape(name), justify="right" if i else "left", no_wrap=i in (0, 2, 3, 4, 5))
    for line in found:
        cells = [escape(cell) for cell in line.cells()]
        if line.reached is not None:
            cells[2] = f"[green]{cells[2]}[/]" if line.reached else f"[red]{cells[2]}[/]"
        table.add_row(*cells, end_section=line.way == OURS[-1])
    return table


def as_markdown(loop: str, found: list[Line]) -> str:
    rows = [list(HEADINGS), [":--", *["--:"] * (len(HEADINGS) - 1)], *(line.cells() for line in found)]
    return f"**{loop}**\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def measured(loop: str, seconds: float, threads: int, *, peers: bool, console: Console) -> list[Line]:
    """All that watch one loop; each peer in a process of its own."""
    with console.status(loop):
        found = lines(loop, ("bare again", *OURS), seconds, BLOCK_S, threads)
    for peer in PEERS if peers else ():
        with console.status(f"{loop}: {peer}"):
            ready = is_installed(peer)
            found += lines(loop, (peer,), min(PEER_S, seconds), PEER_BLOCK_S, threads) if ready else [Line(peer)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=70.0, help="of bare steps, for each twin (%(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: as many as it likes")
    parser.add_argument("--peers", action="store_true", help="the others beside: pip install '.[peers]'")
    parser.add_argument("--markdown", type=Path, help="write the tables to this file, too")
    parser.add_argument("--loop", choices=sorted(LOOPS), action="append", help="this one only")
    options = parser.parse_args()
    console = Console()
    console = console if console.is_terminal else Console(width=172)
    title = heading(options.seconds, options.threads)
    console.print(title, highlight=False)
    texts = [title + "\n"]
    for loop in options.loop or LOOPS:
        found = measured(loop, options.seconds, options.threads, peers=options.peers, console=console)
        console.print(as_table(loop, found))
        texts.append(as_markdown(loop, found))
    console.print(escape(LEGEND), highlight=False)
    if options.markdown is not None:
        options.markdown.write_text("\n".join([*texts, LEGEND + "\n"]), encoding="utf-8")


if __name__ == "__main__":
    main()
