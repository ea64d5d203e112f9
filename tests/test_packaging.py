"""What is installed is what is here: wheel and sdist, tried from an empty directory."""

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Build both from a copy of the tracked files, so that nothing is written into the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: the list of files to build from is git's")
    for name in filter(None, listed.stdout.split("\0")):
        here = ROOT / name
        if not (here.exists() or here.is_symlink()):
            continue
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if here.is_symlink():
            target.symlink_to(os.readlink(here))
        else:
            target.write_bytes(here.read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return out


def unpack_wheel(built: Path, where: Path) -> Path:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(where)
    return where


@pytest.mark.slow
def test_the_wheel_trains_from_an_empty_directory(built, tmp_path):
    installed = unpack_wheel(built, tmp_path / "installed")
    assert {p.name for p in installed.iterdir()} == {"pyro_vae", "pyro_vae-0.1.0.dist-info"}
    assert (installed / "pyro_vae" / "models" / "latent.py").is_file()
    assert (installed / "pyro_vae" / "guides" / "latent.py").is_file()
    assert (installed / "pyro_vae" / "py.typed").is_file()
    assert (installed / "pyro_vae" / "report" / "report.html.j2").is_file()
    for name in ("explorer.html.j2", "explorer.js", "forward.js"):
        assert (installed / "pyro_vae" / "explorer" / name).is_file()
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    where = "import pyro_vae, pyro_vae.models.latent as m; print(pyro_vae.__file__); print(m.__file__)"
    found = subprocess.run([sys.executable, "-c", where], cwd=empty, env=environment, capture_output=True, text=True)
    assert all(line.startswith(str(installed)) for line in found.stdout.split()), found
    command = [sys.executable, "-m", "pyro_vae", "train", "--epochs", "1", "--compile", "off", "--json"]
    subprocess.run(command, cwd=empty, env=environment, check=True, capture_output=True)
    assert (empty / "runs" / "latent-digits" / "figures" / "samples.png").is_file()
    assert (empty / "runs" / "latent-digits" / "report.html").is_file()


@pytest.mark.slow
def test_the_sdist_holds_what_the_wheel_is_built_from(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"pyproject.toml", "README.md", "LICENSE", "models/latent.py", "guides/latent.py"} <= names
    assert "pyro_vae/report/report.html.j2" in names


def test_every_module_is_packaged():
    """The package list is explicit, so a new folder must be entered in it."""
    folders = {p.parent.relative_to(ROOT).as_posix() for p in ROOT.glob("pyro_vae/**/*.py") if ".venv" not in p.parts}
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert folders | {"pyro_vae/models", "pyro_vae/guides"} == {package.replace(".", "/") for package in packages}


def test_importing_is_light_and_changes_nothing_and_so_is_loading_digits():
    code = (
        "import sys, pyro_vae; heavy = {'torch', 'pyro', 'matplotlib', 'arviz', 'sklearn'} & set(sys.modules); "
        "assert not heavy, heavy; import torch; before = torch.get_rng_state(); pyro_vae.load_data('digits'); "
        "heavy = {'torchvision', 'sklearn', 'PIL', 'scipy', 'rich', 'pyro'} & set(sys.modules); assert not heavy, heavy; "
        "pyro_vae.fit, pyro_vae.log_evidence, pyro_vae.Pair, pyro_vae.load_data; "
        "assert torch.equal(torch.get_rng_state(), before); assert torch.get_default_dtype() == torch.float32; "
        "import pyro; assert not pyro.get_param_store().keys(); "
        "heavy = {'matplotlib', 'arviz', 'sklearn', 'torchvision', 'lightning_fabric'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_exists():
    import pyro_vae

    for name in pyro_vae.__all__:
        assert getattr(pyro_vae, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pyro_vae.nothing
