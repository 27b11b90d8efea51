"""A runner that is not available gives one line within seconds, before anything is planned: exit code 2 if it never
can work, 75 if it may later."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deephotlink.pipelines import cli, runners
from deephotlink.transforms.failures import UsageError, WorldError
from tests.builders import make_video


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("film") / "a.mp4", seconds=1, size=(64, 48))


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def refused(film: Path, out: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    started = time.monotonic()
    code = cli.main(["audit", str(film), "--output", str(out), "--detectors", "metadata", *options])
    told = capsys.readouterr()
    assert told.out == "" and len(told.err.strip().splitlines()) == 1 and "Traceback" not in told.err, told.err
    assert time.monotonic() - started < 30
    assert not list(out.glob("_runs/*/plan.parquet"))  # nothing was planned that would have to be finished
    return code, told.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--runner=FlonkRunner"], "Did you mean --runner=FlinkRunner?"),
        (["--runner", "no.such.Runner"], "no"),
        (["--runner=PortableRunner"], "--job_endpoint"),
        (["--runner=PortableRunner", "--job_endpoint=localhost"], "HOST:PORT"),
        (["--runner=PortableRunner", "--job_endpoint=localhost:99999"], "HOST:PORT"),
        (["--runner=FlinkRunner", "--job_server_java_launcher=/none/java"], "there is no /none/java here"),
        (["--runner=FlinkRunner", "--flink_job_server_jar=/none.jar", "--job_server_java_launcher=sh"], "/none.jar"),
        (["--runner=SparkRunner", "--spark_submit_uber_jar"], "spark_rest_url"),
    ],
)
def test_what_cannot_be_had_as_given(film, tmp_path, capsys, options, says):
    code, said = refused(film, tmp_path / "out", capsys, *options)
    assert code == cli.USAGE and says in said


def test_dataflow_without_its_parts(film, tmp_path, capsys, monkeypatch):
    try:
        from apache_beam.runners.dataflow.internal import apiclient  # noqa: F401
    except ImportError:
        options = ["--project=project-1", "--region=europe-west1", "--temp_location=gs://bucket-1/tmp"]
        options += ["--staging_location=gs://bucket-1/staging"]
        for given in ([], options):
            code, said = refused(film, tmp_path / "out", capsys, "--runner=DataflowRunner", *given)
            assert code == cli.USAGE and "apache-beam[gcp]" in said
    else:
        pytest.skip("Beam's parts for Google Cloud are installed")


def test_a_job_server_that_does_not_answer(film, tmp_path, capsys, closed_port):
    endpoint = f"--job_endpoint=127.0.0.1:{closed_port}"
    code, said = refused(film, tmp_path / "out", capsys, "--runner=PortableRunner", endpoint)
    assert code == cli.AGAIN and "Connection refused" in said


def test_something_else_that_answers_in_its_place(monkeypatch):
    monkeypatch.setattr(runners, "CONNECT_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(WorldError, match="is not a job server"):
            runners.check_runner([f"--job_endpoint={endpoint}", "--runner=PortableRunner"])


def test_a_jar_that_cannot_be_fetched(film, tmp_path, capsys, closed_port):
    jar = f"--flink_job_server_jar=http://127.0.0.1:{closed_port}/x.jar"
    cache = f"--jar_cache_dir={tmp_path / 'jars'}"
    code, said = refused(
        film, tmp_path / "out", capsys, "--runner=FlinkRunner", jar, cache, "--job_server_java_launcher=sh"
    )
    assert code == cli.AGAIN and "Connection refused" in said and "--flink_job_server_jar=FILE" in said


@pytest.fixture
def empty_server() -> Iterator[str]:
    class Nothing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Nothing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_jar_that_is_not_where_the_user_says(film, tmp_path, capsys, empty_server):
    options = [f"--flink_job_server_jar={empty_server}/x.jar", f"--jar_cache_dir={tmp_path / 'jars'}"]
    options += ["--runner=FlinkRunner", "--job_server_java_launcher=sh"]
    code, said = refused(film, tmp_path / "out", capsys, *options)
    assert code == cli.USAGE and "404" in said


def test_what_a_runner_elsewhere_raises_is_no_fault_of_a_detector():
    for error in (RuntimeError("Pipeline failed in state FAILED\n at x"), OSError(111, "Connection refused")):
        fault = runners.fault_of_runner(error, ["--runner=FlinkRunner"])
        assert isinstance(fault, WorldError) and "FlinkRunner" in str(fault) and "\n" not in str(fault)
    assert isinstance(runners.fault_of_runner(NotImplementedError("x"), ["--runner=FlinkRunner"]), UsageError)
    # In this process it is ours.
    for here in ([], ["--runner=DirectRunner"], ["--runner", "direct"]):
        assert runners.fault_of_runner(RuntimeError("x"), here) is None


def test_runners_in_this_process_need_nothing():
    for here in ([], ["--runner=DirectRunner"], ["--runner=BundleBasedDirectRunner"]):
        runners.check_runner(here)
