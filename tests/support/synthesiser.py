"""A process that synthesises one deployment after the other: most of a synthesis is Node loading the CDK.

It reads a line of JSON for each, a configuration's file, a folder for the assembly and whether findings are
acknowledged, and answers with the exit code of `infra.app` and what that said; without acknowledgements, with 0 and the
findings.
"""

import contextlib
import io
import json
import os
import sys
from pathlib import Path

from infra import app


def main() -> None:
    """Answer until the input ends. Only answers are on standard output."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        config, output = Path(request["config"]), Path(request["output"])
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            if request["acknowledged"]:
                os.environ["CDK_OUTDIR"] = str(output)
                code = app.main(["--config", str(config)])
                answer = [code, said.getvalue()]
            else:
                answer = [0, _findings(config, output)]
        answers.write(f"{json.dumps(answer)}\n")
        answers.flush()


def _findings(config: Path, output: Path) -> list[str]:
    """Return what breaks a rule where nothing is acknowledged."""
    app.use_packaged_node()
    from infra import synthesis  # jsii looks for Node when it is imported

    built, _ = synthesis.build_stack(app.read_settings(config), output)
    synthesis.add_rules(built)
    with contextlib.suppress(RuntimeError):  # what synth raises where a rule is broken, whose report is then read
        built.synth()
    return synthesis.violations(output)


if __name__ == "__main__":
    main()
