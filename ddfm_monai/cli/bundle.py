"""``ddfm bundle``: where the MONAI bundles of this installation are."""

from __future__ import annotations

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add ``ddfm bundle`` to the application."""
    bundle = typer.Typer(help="The MONAI bundles that come with this package.", no_args_is_help=True)
    bundle.callback()(lambda: None)
    bundle.command("path")(path)
    app.add_typer(bundle, name="bundle")


def path(name: str = typer.Argument("ddfm_fusion", help="Name of the bundle.")) -> None:
    """Print the folder of a bundle, for python -m monai.bundle run --config_file FOLDER/configs/inference.json

    Examples:

    \b
      ddfm bundle path
      ddfm bundle path ddfm_prior
    """
    from ddfm_monai.bundle import bundle_folder

    typer.echo(str(bundle_folder(name)))
