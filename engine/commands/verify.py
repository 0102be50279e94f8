"""The command verify: whether a study comes out on this machine as a cache says."""

import argparse

from engine.commands.words import print_table
from engine.display.formats import cut
from engine.study.study import load_study


def verify(arguments: argparse.Namespace) -> int:
    """`verify STUDY`. 0: all cells come out as stored; 1: some do not."""
    from engine.verify import verify as made_again

    study = load_study(arguments.study, arguments.settings)
    found = made_again(study, arguments.cache, count=arguments.cells, device=arguments.device, memory=arguments.memory)
    print_table(
        [
            ("lane", "prompt", "seed", "made on", "apart", ""),
            *(
                (
                    row.lane,
                    cut(row.prompt, 40),
                    str(row.seed),
                    row.place,
                    "-" if row.distance is None else f"{row.distance:.2g}",
                    "same" if row.same else row.error or "DIFFERS",
                )
                for row in found
            ),
        ]
    )
    same = sum(row.same for row in found)
    print(
        f"\n{same} of {len(found)} cells came out as they are stored: relative L2 of the final latents at most "
        f"{found[0].tolerance:g}. Nothing was written."
    )
    return 0 if same == len(found) else 1
