"""The table of bench/foundation.sh: foundation_table.py FOLDER ROUNDS TITLE."""

import json
import pathlib
import platform
import re
import sys

UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def ours(folder):
    """Speed over all steps but the first, peak memory, losses (train_log.jsonl) and the printed plan."""
    rows = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "loss" in row]
    counted = [(b["tokens"] - a["tokens"], b["tokens_per_second"]) for a, b in zip(rows, rows[1:])]
    plan = re.search(r"^ +peak +([\d.]+) (B|[KMG]iB)$", (folder / "output.txt").read_text(), re.MULTILINE)
    return {
        "tokens_per_second": sum(n for n, _ in counted) / sum(n / rate for n, rate in counted),
        "peak_memory_bytes": rows[-1]["peak_memory_bytes"],
        "loss": [row["loss"] for row in rows],
        "plan": float(plan[1]) * UNITS[plan[2]],
    }


def processor():
    for line in open("/proc/cpuinfo", encoding="ascii", errors="replace"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def gib(size):
    return f"{size / (1 << 30):.3g}"


def row(name, run):
    plan = ""
    if "plan" in run:
        plan = f"{gib(run['plan'])} ({100 * (run['plan'] / run['peak_memory_bytes'] - 1):+.1f} %)"
    losses = ", ".join(f"{loss:.4f}" for loss in run["loss"])
    speed, memory = run["tokens_per_second"], gib(run["peak_memory_bytes"])
    return f"| {name} | {speed:.1f} | {memory} | {plan} | {losses} |"


def ratio(name, mine, peer):
    speed = mine["tokens_per_second"] / peer["tokens_per_second"]
    memory = mine["peak_memory_bytes"] / peer["peak_memory_bytes"]
    apart = max(abs(a - b) for a, b in zip(mine["loss"], peer["loss"]))
    return f"| **ours / {name}** | **{speed:.2f}** | **{memory:.2f}** | | largest difference {apart:.1e} |"


def main():
    folder, rounds, title = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    versions = {}
    lines = []
    for number in range(1, rounds + 1):
        mine = ours(folder / f"ours-{number}")
        peers = [
            (name, json.loads(path.read_text()))
            for name, path in (
                ("PEFT", folder / f"peer-{number}.json"),
                ("PEFT, checkpointing", folder / f"peer-checkpointing-{number}.json"),
            )
            if path.exists()
        ]
        lines.append(row(f"lora-train, round {number}", mine))
        for name, peer in peers:
            versions = peer["versions"]
            lines.append(row(f"{name}, round {number}", peer))
            lines.append(ratio(name, mine, peer))
    print(f"Fine-tuning ({title}), on {processor()}.")
    print("Peer: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".\n")
    print("| run | tokens/s | peak GiB | planned GiB | loss by step |")
    print("|---|---:|---:|---:|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
