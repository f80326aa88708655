"""Small files in the published formats, a server of them, and the real ones where SB3_RELAX_DATA names a folder."""

import functools
import gzip
import hashlib
import http.server
import io
import os
import struct
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sb3_relax.tasks.vae import mnist, omniglot
from sb3_relax.tasks.vae.files import DATA_VARIABLE

REAL = os.environ.get(DATA_VARIABLE)


@pytest.fixture(autouse=True)
def no_named_folder(monkeypatch):
    """A test sees the folder of the real files only if it asks for it."""
    monkeypatch.delenv(DATA_VARIABLE, raising=False)


@pytest.fixture(scope="session")
def real_data():
    if not REAL:
        pytest.skip(f"{DATA_VARIABLE} is not set: it names the folder with the real MNIST and Omniglot files")
    return Path(REAL)


def idx(values):
    """Images or labels as an IDX file."""
    return struct.pack(f">{1 + values.ndim}I", 2048 + values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """A folder of an MNIST with 30 + 10 images, of which 6 validate; the images by file name."""
    generator = np.random.default_rng(1)
    folder = tmp_path / "files" / "mnist"
    folder.mkdir(parents=True)
    images = {}
    for name, count in (("train-images-idx3-ubyte", 30), ("t10k-images-idx3-ubyte", 10)):
        images[name] = generator.integers(0, 256, (count, 28, 28), np.uint8)
        content = idx(images[name])
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        monkeypatch.setitem(mnist.CONTENT_MD5, name, hashlib.md5(content).hexdigest())
        served = hashlib.md5((folder / f"{name}.gz").read_bytes()).hexdigest()
        monkeypatch.setitem(mnist.GZIP_MD5, name, served)
    monkeypatch.setattr(mnist, "VALIDATION", 6)
    return folder, images


@pytest.fixture
def small_labels(small_mnist, monkeypatch):
    """The same folder with the labels of its images; the labels by file name."""
    folder, _ = small_mnist
    labels = {}
    for name, count in (("train-labels-idx1-ubyte", 30), ("t10k-labels-idx1-ubyte", 10)):
        labels[name] = np.random.default_rng(count).integers(0, 10, count, np.uint8)
        content = idx(labels[name])
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        monkeypatch.setitem(mnist.CONTENT_MD5, name, hashlib.md5(content).hexdigest())
    return folder, labels


def zip_of(part, ink, first):
    """Drawings in the layout of Lake's zips. The alphabets' names run against the characters' numbers."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"__MACOSX/{part}/Zeta/character01/._0001_01.png", b"no drawing")
        for c, drawings in enumerate(ink):
            alphabet = f"{chr(ord('Z') - c // 2)}eta"
            for d, drawing in enumerate(drawings):
                png = io.BytesIO()
                Image.fromarray(~drawing).save(png, "png")
                name = f"{part}/{alphabet}/character{c % 2 + 1:02}/{first + c:04}_{d + 1:02}.png"
                archive.writestr(name, png.getvalue())
    return buffer.getvalue()


@pytest.fixture
def small_omniglot(tmp_path, monkeypatch):
    """Folders with an Omniglot of 3 + 2 characters as zips and as npz, of which 5 validate; the ink of all five."""
    ink = np.random.default_rng(2).random((5, 20, 105, 105)) < 0.1
    zips, arrays = tmp_path / "files" / "omniglot", tmp_path / "arrays" / "omniglot"
    for folder in (zips, arrays):
        folder.mkdir(parents=True)
    for part, which in (("images_background", slice(0, 3)), ("images_evaluation", slice(3, 5))):
        (zips / f"{part}.zip").write_bytes(zip_of(part, ink[which], which.start + 1))
        np.savez_compressed(arrays / f"{part}.npz", images=~ink[which])
        md5 = hashlib.md5((zips / f"{part}.zip").read_bytes()).hexdigest()
        sha256 = hashlib.sha256((arrays / f"{part}.npz").read_bytes()).hexdigest()
        monkeypatch.setitem(omniglot.PARTS, part, omniglot.Part(f"md5:{md5}", f"sha256:{sha256}"))
    monkeypatch.setattr(omniglot, "VALIDATION", 5)
    monkeypatch.setattr(omniglot, "GLAGOLITIC", slice(3, 5))
    return zips, arrays, ink


class Mirror:
    """An HTTP server of a folder on this machine: what was asked of it, and whether it breaks off halfway."""

    def __init__(self, folder):
        self.asked, self.breaks_off = [], False
        mirror = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self):
                mirror.asked.append(self.path)
                if not mirror.breaks_off:
                    return super().do_GET()
                content = Path(self.translate_path(self.path)).read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2])

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
        )
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def mirror_of(monkeypatch):
    """Serves a folder, and makes its URL the mirror of MNIST and of Omniglot."""
    started = []

    def serve(folder):
        mirror = Mirror(folder)
        started.append(mirror)
        for module in (mnist, omniglot):
            monkeypatch.setattr(module, "MIRROR", mirror.url)
        return mirror

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield serve
    for mirror in started:
        mirror.stop()


def listing(folder):
    """Every file below a folder, with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
