"""``ddfm prior``: list, describe and download generative priors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from ddfm_monai.priors import PriorCard

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add ``ddfm prior`` to the application."""
    prior = typer.Typer(help="List, describe and download generative priors.", no_args_is_help=True)
    prior.command("list")(list_priors)
    prior.command("info")(info)
    prior.command("download")(download)
    app.add_typer(prior, name="prior")


def list_priors() -> None:
    """List the known priors, whether their weights are on this machine, and who may use them.

    Examples:

    \b
      ddfm prior list
    """
    from rich.console import Console
    from rich.table import Table

    from ddfm_monai.priors import known_priors
    from ddfm_monai.settings import DEFAULT_PRIOR

    table = Table("name", "weights", "terms", box=None)
    for card in known_priors().values():
        size = f"{card.path.stat().st_size / 1e6:.0f} MB" if card.path.is_file() else "not on this machine"
        name = f"{card.name} (default)" if card.name == DEFAULT_PRIOR else card.name
        table.add_row(name, size, card.about["terms"])
    Console().print(table)


def info(name: str = typer.Argument(..., help="A known prior or a weight file.")) -> None:
    """Print a prior's card as JSON: network, file, hash, data, recipe, figures.

    Examples:

    \b
      ddfm prior info open
    """
    from ddfm_monai.priors import find_prior

    typer.echo(json.dumps(_describe(find_prior(name)), indent=2))


def download(name: str = typer.Argument(..., help="A known prior with an address, such as imagenet256.")) -> None:
    """Download a prior's weights into the cache and check their hash. The only command that uses the network.

    Examples:

    \b
      ddfm prior download imagenet256
    """
    from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

    from ddfm_monai.priors import download_prior

    with Progress(*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn()) as progress:
        task = progress.add_task(name, total=None)
        path = download_prior(name, lambda done, total: progress.update(task, completed=done, total=total or None))
    typer.echo(str(path))


def _describe(card: PriorCard) -> dict[str, Any]:
    return {
        "name": card.name,
        "architecture": card.architecture,
        "config": card.config,
        "path": str(card.path),
        "on_this_machine": card.path.is_file(),
        "sha256": card.sha256,
        "url": card.url,
        **card.about,
    }
