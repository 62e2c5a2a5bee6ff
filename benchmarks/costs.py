"""What LocLoc and PPD cost, module by module, as `vitrail costs` tells it, with machine, date and commit.

    python benchmarks/costs.py [--batch 16] [--rounds 15] [--device auto] [--out FILE.json]

CUB's networks on a ViT-S/16: weights, operations, and seconds of a batch, medians of rounds in which all modules take
turns. About three minutes on two cores.

Wanted, as the paper claims: LocLoc in at least 30 % less time than PPD, with 80 % fewer operations of the generator.
"""

from __future__ import annotations

import argparse

from record import record

from vitrail.recipes.costs import CostsConfig, costs, costs_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", default=None, help="path of the JSON, by default under benchmarks/results")
    options = parser.parse_args()
    config = CostsConfig(batch=options.batch, rounds=options.rounds)
    found = costs(config, options.device)
    print(costs_table(found, config))
    numbers = {
        "settings": config.plain(),
        "device": found.device,
        "modules": [row._asdict() for row in found.rows],
        "percent_less_than_ppd": found.claims,
    }
    print(f"written to {record('costs', numbers, options.out)}")


if __name__ == "__main__":
    main()
