"""Shows that the tests can fail: `python tests/mutants.py [module …]` breaks a module, one line at a time.

Each mutant is a mistake that people really make.  It is made in a copy of the project, where the tests of the module
have to find it; a mutant that lives, or whose line is no longer there, is a defect of the tests.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
NEEDED = ("companion", "tests", "pyproject.toml")
AT_ONCE = 2
# Exit code 1 is pytest's for "a test failed"; 99 says that the run saw another companion than the copy.
RUN = """
import sys, pytest
code = pytest.main(sys.argv[2:])
import companion
sys.exit(code if companion.__file__.startswith(sys.argv[1]) else 99)
"""


class Mutant(NamedTuple):
    """What is wrong about it, the text that it replaces, by which text, and where if not in the module itself."""

    why: str
    old: str
    new: str
    module: str = ""


FLOWS = [
    # couplings
    Mutant("sign of log_det, forward", "x, s.exp()), s.sum(-1)", "x, s.exp()), -s.sum(-1)"),
    Mutant("sign of log_det, inverse", "/ s.exp(), -s.sum(-1)", "/ s.exp(), s.sum(-1)"),
    Mutant("no log_det", "x, s.exp()), s.sum(-1)", "x, s.exp()), x.new_zeros(x.shape[:-1])"),
    Mutant("sum over the wrong axis", "x, s.exp()), s.sum(-1)", "x, s.exp()), s.sum(0)"),
    Mutant("mean for sum", "x, s.exp()), s.sum(-1)", "x, s.exp()), s.mean(-1)"),
    Mutant("s for exp(s)", "torch.addcmul(t, x, s.exp())", "torch.addcmul(t, x, s)"),
    Mutant("shift before scale", "torch.addcmul(t, x, s.exp())", "(x + t) * s.exp()"),
    Mutant("inverse adds the shift", "(z - t) / s.exp()", "(z + t) / s.exp()"),
    Mutant("inverse scales first", "(z - t) / s.exp()", "z / s.exp() - t"),
    Mutant("inverse scales forward", "(z - t) / s.exp()", "(z - t) * s.exp()"),
    Mutant("inverse right at the identity only", "(z - t) / s.exp()", "z"),
    Mutant("no bound", "self.bound * torch.tanh(raw / self.bound)", "raw"),
    Mutant("another bound", "says, bound = 2, 2.0", "says, bound = 2, 1.5"),
    Mutant("slope of the log-scale", "torch.tanh(raw / self.bound)", "torch.tanh(raw)"),
    Mutant("moves the wrong half", "kept, part = x.split", "part, kept = x.split"),
    Mutant("swap ignored", "self.swap = features, context, swap", "self.swap = features, context, False"),
    Mutant("halves glued in one order", "[part, kept] if self.swap else [kept, part]", "[kept, part]"),
    Mutant("context ignored", "torch.cat([kept, context], -1)", "torch.cat([kept, 0 * context], -1)"),
    Mutant("hidden ignored", "self.sizes[not swap], hidden)", "self.sizes[not swap], (64, 64))"),
    Mutant("network not 0 at first", "nn.init.zeros_(last.weight), nn.init.zeros_(last.bias)", "pass", "training"),
    Mutant("additive: inverse adds", "z - t, z.new_zeros", "z + t, z.new_zeros"),
    Mutant("additive: log_det of the affine one", "x + t, x.new_zeros(x.shape[:-1])", "x + t, t.sum(-1)"),
    Mutant("Flip as the identity", "check_points(x).flip(-1)", "check_points(x)"),
    Mutant("Flip along the batch", "check_points(x).flip(-1)", "check_points(x).flip(0)"),
    # ActNorm
    Mutant("ActNorm: initialises again", "self.training and not self.initialized and", "self.training and"),
    Mutant("ActNorm: initialises in eval", "if self.training and not", "if not"),
    Mutant(
        "ActNorm: initialises in inverse",
        "return z * self.log_scale.exp() + self.loc",
        "self(z)\n        return z * self.log_scale.exp() + self.loc",
    ),
    Mutant("ActNorm: initialises with one point", " and x.shape[:-1].numel() > 1", ""),
    Mutant("ActNorm: forgets that it did", "self.initialized = bool(state)", "pass"),
    Mutant("ActNorm: var for std", "torch.std_mean(", "torch.var_mean("),
    Mutant("ActNorm: n − 1 for n", "correction=0", "correction=1"),
    Mutant("ActNorm: log of 0", "torch.where(std > 0, std, 1.0).log()", "std.log()"),
    Mutant("ActNorm: sign of log_det, forward", "exp(), -self.log_scale.sum()", "exp(), self.log_scale.sum()"),
    Mutant("ActNorm: sign of log_det, inverse", "+ self.loc, self.log_scale", "+ self.loc, -self.log_scale"),
    Mutant("ActNorm: mean for sum", "exp(), -self.log_scale.sum()", "exp(), -self.log_scale.mean()"),
    Mutant(
        "ActNorm: inverse in the wrong order",
        "z * self.log_scale.exp() + self.loc",
        "(z + self.loc) * self.log_scale.exp()",
    ),
    # InvertibleLinear
    Mutant("linear: W transposed", "(self.P @ L @ U).mT", "(self.P @ L @ U)"),
    Mutant("linear: U before L", "self.P @ L @ U", "self.P @ U @ L"),
    Mutant("linear: sign dropped", "self.sign * self.log_diagonal.exp()", "self.log_diagonal.exp()"),
    Mutant("linear: no P in inverse", "z.reshape(-1, self.features) @ self.P", "z.reshape(-1, self.features)"),
    Mutant("linear: P for its inverse", "self.features) @ self.P ", "self.features) @ self.P.mT "),
    Mutant("linear: L keeps its upper part", "self.L.tril(-1) +", "self.L +"),
    Mutant("linear: U keeps its lower part", "self.U.triu(1) +", "self.U +"),
    Mutant("linear: sign of log_det, inverse", "-self.log_diagonal.sum()", "self.log_diagonal.sum()"),
    Mutant("linear: mean for sum", "mT, self.log_diagonal.sum()", "mT, self.log_diagonal.mean()"),
    Mutant(
        "linear: not a rotation at first", "torch.linalg.qr(torch.randn(features, features)).Q", "torch.eye(features)"
    ),
    # Flow
    Mutant("only the last log_det", "total = total + log_det", "total = log_det"),
    Mutant("log_dets subtracted", "total = total + log_det", "total = total - log_det"),
    Mutant("inverse in the order of forward", "for t in reversed(self.transforms)", "for t in self.transforms"),
    Mutant("½ missing", "z.square().sum(-1) / 2", "z.square().sum(-1)"),
    Mutant("2π missing", " - self.features * log(2 * pi) / 2", ""),
    Mutant("2π once, not for each coordinate", "self.features * log(2 * pi)", "log(2 * pi)"),
    Mutant("base density at x", "z.square().sum(-1)", "x.square().sum(-1)"),
    Mutant("log_det subtracted from the base", "return log_det - z.square()", "return -log_det - z.square()"),
    Mutant("samples in float32 always", "dtype=like.dtype", "dtype=torch.float32"),
    Mutant("generator ignored", "generator=generator, ", ""),
    Mutant("samples by forward", "return self.inverse(z, context)[0]", "return self(z, context)[0]"),
    Mutant("a transform for other points accepted", "if {*made_for} - {features}:", "if False:"),
    # builders
    Mutant(
        "nice: no turns",
        "AdditiveCoupling(features, hidden, context, swap=i % 2 == 1)",
        "AdditiveCoupling(features, hidden, context)",
    ),
    Mutant("nice: no scale at the end", "[*couplings, ActNorm(features)]", "couplings"),
    Mutant(
        "realnvp: no turns",
        "AffineCoupling(features, hidden, context, swap=i % 2 == 1)",
        "AffineCoupling(features, hidden, context)",
    ),
    Mutant("glow: no matrix", "InvertibleLinear(features), c)", "c)"),
    Mutant("glow: no context", "AffineCoupling(features, hidden, context) for", "AffineCoupling(features, hidden) for"),
]

MUTANTS: dict[str, tuple[str, list[Mutant]]] = {"flows": ("tests/test_flows.py", FLOWS)}


def source(module: str, mutant: Mutant, root: Path = ROOT) -> Path:
    return root / "companion" / f"{mutant.module or module}.py"


def stale(module: str) -> list[str]:
    """The mutants whose text does not stand in the code exactly once."""
    _, mutants = MUTANTS[module]
    return [m.why for m in mutants if source(module, m).read_text(encoding="utf-8").count(m.old) != 1]


def run(module: str, mutant: Mutant | None) -> tuple[str, str]:
    """What came of it ("killed", "lived", "error"), and the test that failed or the last words; None: no mutant."""
    tests, _ = MUTANTS[module]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        for name in NEEDED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, root / name)
        if mutant:
            path = source(module, mutant, root)
            path.write_text(path.read_text(encoding="utf-8").replace(mutant.old, mutant.new), encoding="utf-8")
        # In a copy with a mutant, this one test always fails.
        skip = f"--deselect={tests}::test_every_mutant_still_applies"
        command = [sys.executable, "-c", RUN, root, "-x", "-q", "-p", "no:cacheprovider", skip, tests]
        environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    failed = re.search(r"^FAILED \S+?::(.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    if done.returncode == 1 and failed:
        return "killed", failed[1]
    return ("lived", "") if done.returncode == 0 else ("error", (done.stdout + done.stderr)[-1000:])


def hunt(module: str) -> bool:
    """Whether the tests of a module pass as they are and kill each of its mutants."""
    if old := stale(module):
        print(f"{module}: the text of these mutants does not occur exactly once: {old}")
        return False
    outcome, detail = run(module, None)
    if outcome != "lived":
        print(f"{module}: the tests fail without any mutant: {detail}")
        return False
    _, mutants = MUTANTS[module]
    killed = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for mutant, (outcome, detail) in zip(mutants, pool.map(lambda m: run(module, m), mutants)):
            print(f"{outcome:7} {mutant.why:40} {detail}", flush=True)
            killed += outcome == "killed"
    print(f"{module}: {killed} of {len(mutants)} mutants killed")
    return killed == len(mutants)


def main() -> int:
    modules = sys.argv[1:] or list(MUTANTS)
    if unknown := [module for module in modules if module not in MUTANTS]:
        sys.exit(f"expected modules among {list(MUTANTS)}, got {unknown}")
    passed = [hunt(module) for module in modules]
    return int(not all(passed))


if __name__ == "__main__":
    sys.exit(main())
