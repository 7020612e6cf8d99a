"""The table of bench/recipe.sh: recipe_table.py FOLDER TITLE."""

import json
import pathlib
import sys

from foundation_table import gib, ours, processor

# Name of the peer's result, the labels of both, and what to call it.
PEERS = (
    ("peer-padded", "all", "PEFT, padded to 512"),
    ("peer-dynamic", "all", "PEFT, padded to the batch"),
    ("peer-response", "response", "PEFT, padded to the batch"),
)


def row(labels, name, examples, run):
    plan = gib(run["plan"]) if "plan" in run else ""
    losses = ", ".join(f"{loss:.4f}" for loss in run["loss"])
    speed, memory = f"{examples:.2f}", gib(run["peak_memory_bytes"])
    return f"| {labels} | {name} | {speed} | {run['tokens_per_second']:.0f} | {memory} | {plan} | {losses} |"


def main():
    folder = pathlib.Path(sys.argv[1])
    lines, versions = [], {}
    for labels in ("all", "response"):
        mine = ours(folder / f"ours-{labels}")
        peers = [
            (name, json.loads((folder / f"{file}.json").read_text()))
            for file, of, name in PEERS
            if of == labels
        ]
        # Both read the same rows; the peer counts their tokens.
        tokens = peers[0][1]["tokens"][1:]
        examples = mine["tokens_per_second"] * 4 * len(tokens) / sum(tokens)
        lines.append(row(labels, "lora-train", examples, mine))
        for name, peer in peers:
            versions = peer["versions"]
            lines.append(row(labels, name, peer["examples_per_second"], peer))
            speed = examples / peer["examples_per_second"]
            apart = max(abs(a - b) for a, b in zip(mine["loss"], peer["loss"]))
            memory = mine["peak_memory_bytes"] / peer["peak_memory_bytes"]
            lines.append(
                f"| | **ours / {name}** | **{speed:.2f}** | | **{memory:.2f}** | | largest difference {apart:.1e} |"
            )
    print(f"LoRA on instruction rows, {sys.argv[2]}, on {processor()}.")
    print("Peer: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".\n")
    print("| labels | run | examples/s | tokens/s | peak GiB | planned GiB | loss by step |")
    print("|---|---|---:|---:|---:|---:|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
