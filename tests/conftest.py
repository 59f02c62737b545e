"""What tests of several rooms share: small images made here, real ones where they lie, and an S3 server of our own."""

from __future__ import annotations

import io
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
from hypothesis import settings

# the same examples every run, and no clock in a verdict: `--hypothesis-profile=default` looks further
settings.register_profile("lakefmt", deadline=None, derandomize=True)
settings.load_profile("lakefmt")

ROOT = Path(__file__).resolve().parents[1]
REAL_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def pixels() -> np.ndarray[Any, Any]:
    """A small colour image that no codec finds trivial: uint8 (24, 32, 3)."""
    y, x = np.mgrid[0:24, 0:32]
    return np.stack([x * 7 % 256, y * 9 % 256, (x + y) * 5 % 256], axis=-1).astype(np.uint8)


@pytest.fixture(scope="session")
def jpeg_bytes(pixels: np.ndarray[Any, Any]) -> bytes:
    """The image as a JPEG file."""
    simplejpeg = pytest.importorskip("simplejpeg")
    return bytes(simplejpeg.encode_jpeg(pixels, quality=90))


@pytest.fixture(scope="session")
def png_bytes(pixels: np.ndarray[Any, Any]) -> bytes:
    """The image as a PNG file."""
    image = pytest.importorskip("PIL.Image")
    out = io.BytesIO()
    image.fromarray(pixels).save(out, format="PNG")
    return out.getvalue()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data beside the project."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"real data is not in this clone: {REAL_DATA} is absent")
    return REAL_DATA


@pytest.fixture
def mem_url() -> str:
    """Address of a fresh place in memory."""
    return f"mem://{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def s3_options() -> Iterator[dict[str, Any]]:
    """fsspec options that reach an S3 server in a process of its own on the loopback interface."""
    pytest.importorskip("moto.server", reason="the S3 tests need moto: pip install 'lakefmt[dev]'")
    pytest.importorskip("s3fs", reason="the S3 tests need s3fs: pip install 'lakefmt[s3]'")
    script = Path(__file__).parent / "storage" / "s3_server.py"
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        endpoint = server.stdout.readline().strip()
        assert endpoint.startswith("http://127.0.0.1:"), "the S3 server did not start"
        yield {
            "key": "test", "secret": "test", "endpoint_url": endpoint, "default_block_size": 5 << 20,
            "skip_instance_cache": False,  # one client for all tests: making one takes half a second
        }  # fmt: skip
        server.terminate()


@pytest.fixture
def s3_bucket(s3_options: dict[str, Any]) -> str:
    """Name of a fresh bucket."""
    name = f"bucket-{uuid.uuid4().hex}"
    with urlopen(Request(f"{s3_options['endpoint_url']}/{name}", method="PUT")) as answer:
        assert answer.status == 200
    return name
