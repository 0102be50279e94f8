"""The `rehearse` command: what a model will cost, before downloading it. Needs neither cache nor dashboard."""

import argparse

from engine.commands.files import check_json, write_json


def rehearse(arguments: argparse.Namespace) -> int:
    """`rehearse MODEL`."""
    from engine.rehearsal.telling import told
    from engine.rehearsal.trial import rehearse as run

    check_json(arguments.json)
    found = run(arguments.model, arguments.steps, arguments.device, arguments.dtype, arguments.batches)
    print("\n".join(told(found)))
    write_json(arguments.json, found.plain())
    return 0
