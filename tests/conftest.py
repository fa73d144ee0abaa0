"""What all tests share: where the real data lies, and a generated clip where it does not."""

from pathlib import Path

import pytest

_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SHARED_DATA: Path | None = _SHARED if _SHARED.is_dir() else None


@pytest.fixture(scope="session")
def davis480(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in DAVIS 2016's layout: real sequences at 854 x 480 where they are at hand, else a generated clip."""
    if SHARED_DATA is not None:
        return SHARED_DATA / "davis-480p"
    from rtnet.data.clip import write_clip

    root = tmp_path_factory.mktemp("davis")
    write_clip(root)
    return root
