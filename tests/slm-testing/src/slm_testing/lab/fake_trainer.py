"""A substitute for slm-train that trains nothing: it writes a run folder, and reacts to flags and signals."""

import json
import os
import signal
import sys
import time
from pathlib import Path

argv = sys.argv[1:]
flags = {word: value for word, value in zip(argv, [*argv[1:], ""], strict=True) if word.startswith("--")}
mode, folder = flags["--mode"], Path(flags["--output_dir"])
record = json.loads(Path(os.environ["FAKE_RECORD"]).read_text())
record |= {"mode": mode, "arguments": record["arguments"] | {"seed": int(flags["--seed"])}}


def finish(status: str, code: int) -> None:
    (folder / "run.json").write_text(json.dumps(record | {"status": status}))
    (folder / "argv.json").write_text(json.dumps(argv))
    sys.exit(code)


if mode == os.environ.get("FAKE_FAILING"):
    print("Traceback (most recent call last):\nRuntimeError: no memory for <this>", file=sys.stderr)
    sys.exit(1)
print("step 4/8  evaluation: loss 1.0, perplexity 2.7, 1.5 bits per byte")
if mode == os.environ.get("FAKE_WAITING") and "--resume_from_checkpoint" not in argv:
    signal.signal(signal.SIGINT, lambda *_: finish("stopped", 130))
    print("step 5/8  waiting", flush=True)
    time.sleep(30)
finish("finished", 0)
