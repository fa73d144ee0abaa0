"""The option --tracking of the commands that take no recipe. Light, as their help is to answer at once."""

import argparse
import os

_DEFAULT = "sqlite:///runs/mlflow.db"


def add_store_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tracking",
        metavar="URI",
        default=default_store(),
        help="where models are: MLflow's tracking URI (default: MLFLOW_TRACKING_URI, else %(default)s)",
    )


def default_store() -> str:
    """MLFLOW_TRACKING_URI, else the SQLite file in `runs`."""
    return os.environ.get("MLFLOW_TRACKING_URI", _DEFAULT)
