"""The calibration with which tests rescore, and the process that the kill test of `rescore` kills."""

import dataclasses
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from deephotlink.models.calibration.calibration import Calibration, DetectorCalibration, Fusion
from deephotlink.pipelines.accuracy.rescore import rescore_output

RULE = DetectorCalibration(1.0, 0.0, -9.0, 9.0, 1.0, "", "platt", 1.5, (), "ab", "1")


def calibration(name: str = "new", slope: float = 1.0) -> Calibration:
    rule = dataclasses.replace(RULE, slope=slope)
    return Calibration(name, "made up", "", {"face": rule}, 0.1, 0.9, Fusion(exponent=1.5, lowest=-4, highest=4))


def kill_again_and_again(out: str, kills: int) -> None:
    """Forks the same command twice at a time and kills both at a random moment, until `kills` processes were killed and
    two rescorings are finished. It opens no table itself, because a fork must not inherit threads."""
    done, finished, pause = 0, 0, 0.2
    while done < kills or finished < 2:
        children = []
        for _ in range(2):
            if not (pid := os.fork()):
                rescore_output(out, calibration(f"new{finished}", 1.0 + finished))
                os._exit(0)
            children.append(pid)
        time.sleep(random.uniform(0, pause))
        for pid in children:
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                done += 1
        pause *= 1.5  # without a limit: on a slow machine, too, the work must end some day
        summaries = [json.loads(path.read_text()) for path in Path(out).glob("_runs/*/summary.json")]
        finished = sum(summary["run"]["kind"] == "rescore" for summary in summaries)


if __name__ == "__main__":
    kill_again_and_again(sys.argv[1], int(sys.argv[2]))
