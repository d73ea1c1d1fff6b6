"""Values for any flag, sensible or not, and what a command line with one of them must end in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

VALUES = (
    *("", " ", "0", "1", "2", "3", "-1", "-5", "0.5", "1.5", "-0.5", "1e-30", "1e6", "1e30", "1e400", "-1e400"),
    *("nan", "-nan", "inf", "-inf", "99999999999", "1" * 30, "1" * 5000, "1_0", "٣", "0x10", "1,5", "12 "),
    *("true", "false", "True", "no", "none", "None", "null", "steps", "epoch", "auto", "all", "best", "linear"),
    *(
        "word",
        "two words",
        "ünï-cödé",
        "☃",
        "x" * 300,
        "a\nb",
        "a\x00b",
        "\udcff",
        "'",
        '"',
        "%s %(prog)s",
        "*",
        "-",
        "=",
    ),
    *("{}", '{"a": 1}', '{"num_cycles": "x"}', "{bad", "[1, 2]", "a=1,b=2", "$HOME", "../x", ".", "~nobody/x"),
    *(
        "/dev/null",
        "/dev/null/x",
        "/nonexistent/file",
        "/proc/self/mem",
        "owner/name",
        "owner/name/more",
        "http://x.y/z",
    ),
)


@dataclass(frozen=True)
class Outcome:
    """What a command line ended in."""

    code: int
    errors: str  # standard error
    folder: Path  # its --output_dir

    def fault(self) -> str:
        """Return what makes it neither a run nor one sentence before anything is written; empty if it is one."""
        sentences = [line for line in self.errors.splitlines() if line.startswith("slm-train: ")]
        if "Traceback" in self.errors:
            return "a traceback"
        if self.code == 0:
            return f"a run that reports {sentences}" if sentences else ""
        if self.code not in (1, 2):
            return f"exit code {self.code}"
        if len(sentences) != 1 or not sentences[0].removeprefix("slm-train: ").strip():
            return f"{len(sentences)} sentences: {self.errors!r}"
        return "files of a refused run" if self.folder.exists() else ""
