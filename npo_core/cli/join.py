"""`npo join`."""

from typing import Annotated

import typer

NODES, RANK = ["NPO_NODES", "SLURM_NNODES"], ["JOB_COMPLETION_INDEX", "SLURM_NODEID"]


def join(
    address: Annotated[str, typer.Option(envvar="MASTER_ADDR", help="Of the machine that runs the recipe.")],
    nodes: Annotated[int, typer.Option(envvar=NODES, min=2, help="Machines, as execution.nodes says.")],
    rank: Annotated[int, typer.Option(envvar=RANK, min=1, help="Number of this machine; that of the first is 0.")],
    port: Annotated[int, typer.Option(envvar="MASTER_PORT", help="Where the machines meet.")] = 29500,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Of this machine; none: one a GPU, or one where there is none.")
    ] = None,
) -> None:
    """Take part in the stages of a run on another machine, until this command is ended.

    The other machine runs the recipe with execution.nodes above 1. Slurm and Kubernetes give all options and end the
    command when the recipe is over.

    Example: [cyan]npo join --address node-0 --nodes 2 --rank 1[/]
    """
    import torch

    from npo_core.errors import ConfigError
    from npo_core.stages import nodes as machines

    if rank >= nodes:
        raise ConfigError(f"--rank {rank} is none of the {nodes} machines, which are 0 to {nodes - 1}.")
    machines.join(machines.Place(nodes, rank, address, port), processes or max(torch.cuda.device_count(), 1))
