"""Commands that recompute cells of a study: noise, verify."""

import argparse

from engine.commands.console import print_table
from engine.commands.files import given_study
from engine.display.formats import cut


def noise(arguments: argparse.Namespace) -> int:
    """`noise STUDY`."""
    from engine.passes.noise import run_noise

    study = given_study(arguments)
    rows = run_noise(
        study,
        arguments.cache,
        device=arguments.device,
        memory=arguments.memory,
        lanes=arguments.lanes,
        each=arguments.cells,
        compiled=arguments.compile,
    )
    print()
    print_table(
        [
            ("lane", "variation", "metric", "n", "median", "largest"),
            *(
                (
                    row.lane,
                    row.variation,
                    row.metric,
                    str(row.n),
                    "-" if row.median is None else f"{row.median:.3g}",
                    "-" if row.largest is None else f"{row.largest:.3g}",
                )
                for row in rows
            ),
        ]
    )
    print(f"\nlatent_error: relative L2 of the final latents; picture_rms: 0 to 255. Cache: {arguments.cache}")
    return 0


def verify(arguments: argparse.Namespace) -> int:
    """`verify STUDY`: 0 if all cells match the stored ones, 1 if not."""
    from engine.passes.verify import verify as remake

    study = given_study(arguments)
    found = remake(study, arguments.cache, count=arguments.cells, device=arguments.device, memory=arguments.memory)
    print_table(
        [
            ("lane", "prompt", "seed", "made on", "distance", ""),
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
        f"\n{same} of {len(found)} cells match the stored ones: relative L2 distance of the final latents at most "
        f"{found[0].tolerance:g}. Nothing was written."
    )
    return 0 if same == len(found) else 1
