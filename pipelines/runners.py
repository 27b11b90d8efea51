"""The Beam runner: either the one in this process or the one that the user named.

A named runner is checked before anything is planned. If it cannot work as given (a misspelt name, no Java, parts of
Beam that are not installed), that is a UsageError. If something does not answer now (a job server, the server of a
jar), that is a WorldError. Either takes seconds and one line.
"""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from urllib.error import HTTPError, URLError

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import JobServerOptions, PipelineOptions, PortableOptions, StandardOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.job_server import JavaJarJobServer
from apache_beam.runners.portability.portable_runner import PortableRunner

from ..models.weights.files import WeightsError
from ..transforms.failures import UsageError, WorldError, printable
from ..transforms.storage.uris import redact
from .options import runner_named

CONNECT_SECONDS = 10.0
"""Longest wait for a job server to accept a connection, and again for it to answer."""
JAR_SECONDS = 20.0
"""Longest wait for the server of a jar to answer, and between two parts of the jar."""
_IN_PROCESS = {"direct", "fnapi", "bundlebaseddirect", "switchingdirect", "testdirect", "interactive"}


def make_pipeline(beam_args: Sequence[str]) -> beam.Pipeline:
    """A pipeline on the runner that the user named, else on FnApiRunner in this process. DirectRunner would first try
    to download another runner, and may hang on that.

    Raises:
        UsageError: Beam refuses the options.
    """
    try:
        options = PipelineOptions(list(beam_args))
        return beam.Pipeline(runner=None if runner_named(beam_args) else FnApiRunner(), options=options)
    except (ValueError, ImportError, AttributeError, TypeError) as error:
        said = _first_words(error)
        if close := get_close_matches(_name(beam_args), StandardOptions.KNOWN_RUNNER_NAMES, 1):
            said += f" Did you mean --runner={close[0]}?" if "Unexpected pipeline runner" in said else ""
        raise UsageError(f"Beam refuses its options {redact(' '.join(beam_args))}: {said}") from error


def check_runner(beam_args: Sequence[str]) -> None:
    """Checks that the runner is available, as far as that is possible without giving it work. May download its jar,
    which is kept.

    Raises:
        UsageError: the runner cannot work as given. WorldError: something that it needs does not answer.
    """
    if "dataflow" in _name(beam_args).lower():
        # First, because Beam tries the bucket of --temp_location for minutes before it notices that parts are missing.
        _check_dataflow()
    pipeline = make_pipeline(beam_args)
    options: PipelineOptions = pipeline.options
    if not isinstance(pipeline.runner, PortableRunner):
        return
    endpoint = options.view_as(PortableOptions).job_endpoint
    if endpoint:
        _check_endpoint(endpoint)
        return
    try:
        server = pipeline.runner.default_job_server(options)
    except (NotImplementedError, ValueError, ImportError) as error:
        raise UsageError(f"--runner={_name(beam_args)}: {_first_words(error)}") from None
    server = getattr(server, "_job_server", server)
    if isinstance(server, JavaJarJobServer):
        _check_jar(server, options.view_as(JobServerOptions), beam_args)


def fault_of_runner(error: BaseException, beam_args: Sequence[str]) -> WorldError | UsageError | None:
    """What an external runner itself raised, as one of our errors; None if the runner is in this process, because its
    faults are ours."""
    if not runner_named(beam_args) or is_in_process(_name(beam_args)):
        return None
    told = f"--runner={_name(beam_args)}: {_first_words(error)}"
    if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call):
        said = printable(error.details() or "", 200)
        return WorldError(f"--runner={_name(beam_args)}: the job server is gone ({error.code().name}: {said})")
    if isinstance(error, (ImportError, NotImplementedError, ValueError)):
        return UsageError(told)
    return WorldError(told) if isinstance(error, Exception) else None


def no_traces_of_lost_servers() -> None:
    """From now on, a thread of Beam's that loses its job server ends without printing a traceback: the main thread
    learns of it too, perhaps earlier, and says it in one line."""
    if not isinstance(threading.excepthook, _WithoutLostServers):
        threading.excepthook = _WithoutLostServers(threading.excepthook)


@dataclass(frozen=True, slots=True)
class _WithoutLostServers:
    usual: Callable[[threading.ExceptHookArgs], object]

    def __call__(self, raised: threading.ExceptHookArgs) -> None:
        if not isinstance(raised.exc_value, grpc.RpcError):
            self.usual(raised)


def is_in_process(runner: str | None) -> bool:
    """Whether the runner of this name works in this process; None is Beam's default."""
    return runner is None or runner.rpartition(".")[2].lower().removesuffix("runner") in _IN_PROCESS


def foreseen(error: BaseException | None) -> WorldError | UsageError | None:
    """The WorldError or UsageError inside a runner's error, or None. Beam re-raises the faults of a step as text.

    A WeightsError becomes a UsageError, because the user named the file.
    """
    while error is not None:
        for kind in (WorldError, UsageError, WeightsError):
            text = str(error) if isinstance(error, kind) else None
            for line in str(error).splitlines()[::-1]:
                text = text or (line.partition(f"{kind.__name__}: ")[2] or None)
            if text is not None:
                text = text.partition(" [while running")[0]
                return WorldError(text) if kind is WorldError else UsageError(text)
        error = error.__cause__ or error.__context__
    return None


def _check_endpoint(endpoint: str) -> None:
    """Checks a job server that should already be running. Tries a socket first: gRPC retries a closed port until its
    time is up."""
    if endpoint == "embed":
        return
    if "://" not in endpoint and not endpoint.startswith("unix:"):
        host, _, port = endpoint.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise UsageError(f"expected --job_endpoint=HOST:PORT, got {printable(endpoint)}")
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        except (OSError, UnicodeError) as error:
            raise WorldError(f"no job server answers at {printable(endpoint)}: {_first_words(error)}") from None
    channel = grpc.insecure_channel(endpoint)
    try:
        grpc.channel_ready_future(channel).result(timeout=CONNECT_SECONDS)
    except grpc.FutureTimeoutError:
        raise WorldError(f"the server at {printable(endpoint)} is not a job server, or is not ready") from None
    finally:
        channel.close()


def _check_jar(server: JavaJarJobServer, options: JobServerOptions, beam_args: Sequence[str]) -> None:
    """Checks a job server that Beam starts here, which needs Java and a jar. The jar is local or is downloaded."""
    name, java = _name(beam_args), options.job_server_java_launcher
    if shutil.which(java) is None:
        raise UsageError(
            f"--runner={name} starts a job server in Java, but there is no {printable(java)} here: install Java, name "
            "one with --job_server_java_launcher=PATH, or name a server that runs with --job_endpoint=HOST:PORT"
        )
    try:
        jar = server.path_to_jar()
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"--runner={name}: {_first_words(error)}") from None
    try:
        with _impatient():
            server.local_jar(jar, options.jar_cache_dir)
    except Exception as error:  # an HTTP or store client may raise anything
        given = any(arg.split("=")[0].endswith("_job_server_jar") for arg in beam_args)
        cause = _cause(error)
        told = f"cannot fetch the job server of --runner={name} from {printable(redact(jar))}: {_first_words(cause)}"
        if given and (isinstance(cause, FileNotFoundError) or (isinstance(cause, HTTPError) and cause.code < 500)):
            raise UsageError(told) from None
        raise WorldError(f"{told}; if it cannot be reached, name a copy with --{_name_of_jar(name)}=FILE") from None


def _check_dataflow() -> None:
    try:
        from apache_beam.runners.dataflow.internal import apiclient  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"--runner=DataflowRunner needs Beam's parts for Google Cloud: pip install 'apache-beam[gcp]' "
            f"({_first_words(error)})"
        ) from None


@contextmanager
def _impatient() -> Iterator[None]:
    """Sets a default socket timeout in the body: Beam downloads jars with urllib, which has none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(JAR_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _cause(error: BaseException) -> BaseException:
    """The underlying error. Beam wraps what its client raised in an error with a text of its own."""
    at: BaseException | None = error
    while at is not None and not isinstance(at, URLError):
        at = at.__cause__ or at.__context__
    if at is None or isinstance(at, HTTPError):
        return at or error
    return at.reason if isinstance(at.reason, BaseException) else at


def _name_of_jar(runner: str) -> str:
    """
    >>> _name_of_jar("FlinkRunner")
    'flink_job_server_jar'
    """
    return f"{runner.lower().removesuffix('runner')}_job_server_jar"


def _name(beam_args: Sequence[str]) -> str:
    for at, arg in enumerate(beam_args):
        if arg.split("=")[0] == "--runner":
            return printable(arg.partition("=")[2] if "=" in arg else "".join(beam_args[at + 1 : at + 2]), 100)
    return "none"


def _first_words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(redact(" ".join(lines) or type(error).__name__), 400)
