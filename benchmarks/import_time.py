"""What does ``import speechcl`` cost next to ``import torch``, each in a fresh process?

speechcl loads its parts when they are first used. The second line therefore says, without a
target, what it costs to get at the engine, SpeechBrain and all.
"""

import resource
import subprocess
import sys
import time

from timing import arguments, interleaved, report

TARGET = 1.2


def cpu_and_wall(statement: str) -> tuple[float, float]:
    """Seconds of CPU and on the wall of a process that runs one statement."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, wall


def main() -> None:
    repeats = 2 if arguments(__doc__).quick else 9
    statements = {
        "torch": "import torch",
        "package": "import speechcl; assert speechcl.__all__",
        "engine": "from speechcl import Engine; assert Engine.run",
    }
    walls: dict[str, list[float]] = {name: [] for name in statements}

    def once(name: str) -> float:
        cpu, wall = cpu_and_wall(statements[name])
        walls[name].append(wall)
        return cpu

    cpu = interleaved({name: lambda name=name: once(name) for name in statements}, repeats)
    for name, target in [("package", TARGET), ("engine", None)]:
        for clock, times in [("cpu", cpu), ("wall", {k: v[1:] for k, v in walls.items()})]:
            report(
                "import_time",
                {"ours": statements[name], "peer": statements["torch"], "clock": clock},
                times[name],
                times["torch"],
                target,
            )


if __name__ == "__main__":
    main()
