"""`classify` as a Flex Template of Dataflow's, whose parameters are all `--name=value`.

The launcher in the template's image (docs/deploy/dataflow/Dockerfile.launcher) calls it.
"""

from __future__ import annotations

import os
import re
import sys

from imagecensus.jobs.cli import run_job
from imagecensus.jobs.command.options import declared
from imagecensus.jobs.options.classify import ClassifyOptions

WORKER_IMAGE = "IMAGECENSUS_WORKER_IMAGE"  # set by the template's image


def main(argv: list[str]) -> int:
    """Runs `classify`; returns its exit code."""
    return run_job("classify", classify_arguments(argv))


def classify_arguments(parameters: list[str]) -> list[str]:
    """A template's parameters as a command line of `classify`; Beam's own stay as they are.

    `inputs` holds one or more locations in stores, separated by commas or blanks.
    """
    fields = {field.name: field for field in declared(ClassifyOptions)}
    inputs, arguments = [], []
    for parameter in parameters:
        name, _, value = parameter.removeprefix("--").partition("=")
        field = fields.get(name.replace("-", "_"))
        if field is None or field.name == "runner":
            arguments.append(parameter)
        elif field.name == "inputs":
            inputs = re.split(r"[,\s]+(?=[a-z][a-z0-9]+://)", value.strip())
        elif field.default is not False:
            arguments.append(f"--{field.name.replace('_', '-')}={value}")
        elif value.lower() == "true":
            arguments.append(f"--{field.name.replace('_', '-')}")
    given = {argument.split("=")[0] for argument in arguments}
    if "--runner" not in given:
        arguments.append("--runner=DataflowRunner")
    if "--sdk_container_image" not in given and os.environ.get(WORKER_IMAGE):
        arguments.append(f"--sdk_container_image={os.environ[WORKER_IMAGE]}")
    return [*inputs, *arguments]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
