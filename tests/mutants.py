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
NEEDED = ("companion", "tests", "book/data", "pyproject.toml")
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

KALMAN = [
    # predict, update
    Mutant("A transposed in the mean", "_times(A, mean), _between(A, cov)", "_times(A.mT, mean), _between(A, cov)"),
    Mutant("Mᵀ P M for M P Mᵀ", "return M @ P @ M.mT", "return M.mT @ P @ M"),
    Mutant("no Q", "_between(A, cov) + Q", "_between(A, cov)"),
    Mutant("Q a standard deviation", "_between(A, cov) + Q", "_between(A, cov) + Q @ Q"),
    Mutant("no R in S", "S = _between(C, cov) + R", "S = _between(C, cov)"),
    Mutant("R a standard deviation", "S = _between(C, cov) + R", "S = _between(C, cov) + R @ R"),
    Mutant("sign of the innovation", "torch.where(seen, x, 0.0) - _times(C, mean)", "_times(C, mean) - x.nan_to_num()"),
    Mutant(
        "innovation forgets the mean", "torch.where(seen, x, 0.0) - _times(C, mean)", "x.nan_to_num() + 0 * C[0, 0]"
    ),
    Mutant("mean not updated", "Moments(mean + _times(K, innovation),", "Moments(mean,"),
    Mutant("mean moved away", "mean + _times(K, innovation)", "mean - _times(K, innovation)"),
    Mutant("gain of the whitened innovation", "mean + _times(K, innovation)", "mean + _times(K, white)"),
    Mutant("short form of P", "_between(kept, cov) + _between(K, R)), log_p", "kept @ cov), log_p"),
    Mutant("no K R Kᵀ", "_between(kept, cov) + _between(K, R)), log_p", "_between(kept, cov)), log_p"),
    Mutant("I + K C", "device=mean.device) - K @ C", "device=mean.device) + K @ C"),
    Mutant(
        "gain without P",
        "torch.cholesky_solve(C @ cov, factor)",
        "torch.cholesky_solve(C + 0 * cov[..., :1, :1], factor)",
    ),
    Mutant("log|L| for log|S|", "log_det = 2 * factor", "log_det = factor"),
    Mutant("sign of log|S|", "log_det = 2 * factor", "log_det = -2 * factor"),
    Mutant("|·| for |·|²", "white.square().sum(-1)", "white.abs().sum(-1)"),
    Mutant("no whitening", "white.square().sum(-1)", "innovation.square().sum(-1)"),
    Mutant("½ missing", "* log(2 * pi)) / 2", "* log(2 * pi))"),
    Mutant("2π missing", "* log(2 * pi)", "* 0.0"),
    Mutant("log π for log 2π", "* log(2 * pi)", "* log(pi)"),
    Mutant("log 2π in the default dtype", "* log(2 * pi)", "* torch.tensor(2 * pi).log()"),
    # missing numbers
    Mutant("missing is 0", "seen = ~x.isnan()", "seen, x = ~x.isnan() | True, x.nan_to_num()"),
    Mutant("a step counts whole or not", "seen = ~x.isnan()", "seen = ~x.isnan().any(-1, keepdim=True).expand_as(x)"),
    Mutant("NaN multiplied away", "torch.where(seen, x, 0.0)", "x"),
    Mutant("missing: C kept", "w[..., None] * C, w[..., None] * R", "C, w[..., None] * R"),
    Mutant("missing: R kept", "w[..., None] * R * w[..., None, :] + torch.diag_embed(1 - w)", "R"),
    Mutant("missing: columns of R kept", "w[..., None] * R * w[..., None, :]", "w[..., None] * R"),
    Mutant("missing: variance 2", "torch.diag_embed(1 - w)", "2 * torch.diag_embed(1 - w)"),
    Mutant("missing: innovation kept", "innovation = w * innovation", "pass"),
    # the model
    Mutant("P0 moved before it is used", "self.A, self.Q) if t else known", "self.A, self.Q)"),
    Mutant("never moved on", "self.A, self.Q) if t else known", "self.A, self.Q) if t < 0 else known"),
    Mutant(
        "predicted and updated swapped",
        "return Filtered(_in_time(expected, batch), _in_time(known, batch)",
        "return Filtered(_in_time(known, batch), _in_time(expected, batch)",
    ),
    Mutant(
        "mean over time for the sum",
        "self.filter(obs).log_likelihood.sum(-1)",
        "self.filter(obs).log_likelihood.mean(-1)",
    ),
    Mutant(
        "sum over the batch too", "self.filter(obs).log_likelihood.sum(-1)", "self.filter(obs).log_likelihood.sum()"
    ),
    Mutant("Q not symmetric to the last digit", "cov = (cov + cov.mT) / 2", "pass"),
    Mutant("a singular Q refused", "smallest >= -allowed", "smallest > allowed"),
    Mutant("a negative eigenvalue accepted", "smallest >= -allowed", "smallest > -10 + 0 * allowed"),
    Mutant("rounding refused", "smallest >= -allowed", "smallest >= 0"),
    Mutant("infinite observations accepted", "~obs.isinf()", "~obs.isinf() | True"),
    Mutant("no observation at all accepted", " or not obs.shape[-2]", ""),
    Mutant("one observation for all accepted", "obs.shape[-1] != p or", "obs.shape[-1] not in (1, p) or"),
    # smooth
    Mutant(
        "smoother starts from the prediction",
        "later = Moments(known.mean[..., -1, :]",
        "later = Moments(predicted.mean[..., -1, :]",
    ),
    Mutant("smoother one step short", "range(obs.shape[-2] - 2, -1, -1)", "range(obs.shape[-2] - 2, 0, -1)"),
    Mutant("smoother in reversed time", "_in_time(steps[::-1], obs", "_in_time(steps, obs"),
    Mutant(
        "G without P", "torch.cholesky_solve(self.A @ cov, factor)", "torch.cholesky_solve(self.A + 0 * cov, factor)"
    ),
    Mutant(
        "G with A transposed",
        "torch.cholesky_solve(self.A @ cov, factor)",
        "torch.cholesky_solve(self.A.mT @ cov, factor)",
    ),
    Mutant(
        "smoother: this step's prediction",
        "later.mean - predicted.mean[..., t + 1, :]",
        "later.mean - predicted.mean[..., t, :]",
    ),
    Mutant(
        "smoother: the mean before A",
        "later.mean - predicted.mean[..., t + 1, :]",
        "later.mean - known.mean[..., t, :]",
    ),
    Mutant("smoother: no Q", "_between(G, self.Q + later.cov)", "_between(G, later.cov)"),
    Mutant("smoother: no later covariance", "_between(G, self.Q + later.cov)", "_between(G, self.Q + 0 * later.cov)"),
    Mutant("smoother: only what is filtered", "_between(kept, cov) + _between(G, self.Q + later.cov)", "cov"),
    Mutant("smoother: predicted covariance of now", "predicted.cov[..., t + 1, :, :]", "predicted.cov[..., t, :, :]"),
    # forecast, sample
    Mutant(
        "forecast without noise",
        "ahead.append(predict(*state, self.C, self.R))",
        "ahead.append(predict(*state, self.C, 0 * self.R))",
    ),
    Mutant(
        "forecast starts a step late",
        "state = predict(*state, self.A, self.Q)\n            ahead.append(predict(*state, self.C, self.R))",
        "ahead.append(predict(*state, self.C, self.R))\n            state = predict(*state, self.A, self.Q)",
    ),
    Mutant("forecast from the prediction", "known = self.filter(obs).updated", "known = self.filter(obs).predicted"),
    Mutant("generator ignored", "generator=generator, ", ""),
    Mutant("samples in float32 always", '"dtype": cov.dtype', '"dtype": torch.float32'),
    Mutant("variance for scale", "values.clamp(min=0).sqrt()", "values.clamp(min=0)"),
    Mutant("root of a negative number", "values.clamp(min=0).sqrt()", "values.sqrt()"),
    Mutant("no m0", "states = [self.m0 + noise(self.P0)]", "states = [noise(self.P0)]"),
    Mutant("first state from Q", "noise(self.P0)]", "noise(self.Q)]"),
    Mutant("later states from P0", "states[-1]) + noise(self.Q)", "states[-1]) + noise(self.P0)"),
    Mutant(
        "one noise for all steps",
        "[_times(self.C, state) + noise(self.R) for state in states]",
        "[_times(self.C, state) + v for v in [noise(self.R)] for state in states]",
    ),
    Mutant("observations without noise", "_times(self.C, state) + noise(self.R)", "_times(self.C, state)"),
    Mutant(
        "one noise for the whole batch", "torch.randn(*batch, len(cov), generator", "torch.randn(len(cov), generator"
    ),
]

DEEP_KALMAN = [
    # the loss
    Mutant("loss: KL of the prior from the posterior", "_kl(*target, loc, scale)", "_kl(loc, scale, *target)"),
    Mutant("loss: mean over coordinates", "ratio.log().sum(-1)", "ratio.log().mean(-1)"),
    Mutant("loss: −½ of the KL once, not for each coordinate", "- loc0.shape[-1])", "- 1)"),
    Mutant("loss: KL without its ½", "- loc0.shape[-1]) / 2", "- loc0.shape[-1])"),
    Mutant("loss: distance in scales of the posterior", "(loc0 - loc1) * unit", "(loc0 - loc1) / scale0"),
    Mutant("std for variance", "error / self.emit_log_sigma.exp()", "error / self.emit_scale"),
    Mutant("½ missing", "+ self.emit_log_sigma).sum(-1) / 2", "+ self.emit_log_sigma).sum(-1)"),
    Mutant("log-scale for log-variance", "exp() + self.emit_log_sigma).sum", "exp() + 2 * self.emit_log_sigma).sum"),
    Mutant("KL of the prior from the posterior", "kl_normal(*q, *prior)", "kl_normal(*prior, *q)"),
    Mutant("mean over coordinates", "kl_normal(*q, *prior).sum(-1)", "kl_normal(*q, *prior).mean(-1)"),
    Mutant("divides by at least L", "clamp(max=L)", "clamp(min=L)"),
    Mutant("sum over distances", "clamp(max=L)[:, None, None]", "clamp(max=1)[:, None, None]"),
    Mutant("longer priors at earlier times", "(0, 0, 0, 0, d, 0)", "(0, 0, 0, 0, 0, d)"),
    Mutant("target of another time", "else part[d:] for", "else part[: len(part) - d] for"),
    Mutant("stop_gradient ignored", "if d and self.config.stop_gradient", "if False"),
    Mutant("stop_gradient for all priors", "if d and self.config", "if self.config"),
    Mutant("mask ignored in the loss", "(mask.mT[:, None] * term).sum((0, 2))", "term.sum((0, 2))"),
    Mutant("mean over sequences", ".sum((0, 2)).mean() for", ".sum(0).mean() for"),
    Mutant("steps on the default device", "len(total) + 1, device=obs.device", "len(total) + 1"),
    # the priors
    Mutant(
        "start from the wrong time",
        "loc[:-1] + scale[:-1] * noise[d, d - 1 : -1]",
        "loc[1:] + scale[1:] * noise[d, d:]",
    ),
    Mutant("no noise on the way", "loc[:-1] + scale[:-1] * noise[d, d - 1 : -1]", "loc[:-1]"),
    Mutant("noise of the posterior again", "noise[d, d - 1 : -1]", "noise[0, d - 1 : -1]"),
    Mutant("noise of the level below", "noise[d, d - 1 : -1]", "noise[d - 1, d - 1 : -1]"),
    Mutant("noise of another time", "noise[d, d - 1 : -1]", "noise[d, d:]"),
    Mutant("horizon one short", "range(min(levels))", "range(max(1, min(levels) - 1))"),
    Mutant("horizon ignored", "range(min(levels))", "range(min(2, *levels))"),
    # the path
    Mutant("looks at the time before", "seen.unbind(1)", "seen.roll(1, 1).unbind(1)"),
    Mutant("starts from 0", "self.z_q_0.expand_as(rows[0])", "torch.zeros_like(rows[0])"),
    Mutant("rows of another sample", ".repeat(noise.shape[1], 1, 1)", ".repeat_interleave(noise.shape[1], 0)"),
    Mutant("variance for std in the sample", "q[0] + q[1] * eps", "q[0] + q[1].square() * eps"),
    Mutant("no noise in the sample", "q[0] + q[1] * eps", "q[0]"),
    Mutant("sample of the prior", "q[0] + q[1] * eps", "prior[0] + prior[1] * eps"),
    Mutant("sample without gradients", "z = q[0] + q[1] * eps", "z = (q[0] + q[1] * eps).detach()"),
    Mutant("noise in the default dtype", "torch.randn(shape, dtype=obs.dtype,", "torch.randn(shape,"),
    Mutant(
        "noise on the default device",
        "torch.randn(shape, dtype=obs.dtype, device=obs.device)",
        "torch.randn(shape, dtype=obs.dtype)",
    ),
    Mutant(
        "one noise for all samples",
        "return torch.randn(shape, dtype=obs.dtype, device=obs.device)",
        "return torch.randn(shape, dtype=obs.dtype, device=obs.device)[:, :, :1].expand(shape)",
    ),
    # the bounds
    Mutant(
        "elbo: KL of the prior from the posterior", "kl_normal(*q, *prior).sum(-1))", "kl_normal(*prior, *q).sum(-1))"
    ),
    Mutant("elbo: sum over samples", "*prior).sum(-1)).mean(0)", "*prior).sum(-1)).sum(0)"),
    Mutant("bound: mask ignored", "(there.mT[:, None] * each).sum(0)", "each.sum(0)"),
    Mutant("bound: price paid out", "self.emit_scale) - price(z, prior, q)", "self.emit_scale) + price(z, prior, q)"),
    Mutant("log_weights: no posterior", "_log_normal(z, *q) - _log_normal(z, *prior)", "-_log_normal(z, *prior)"),
    Mutant("log_weights: sign of log q", "_log_normal(z, *q) - _log", "-_log_normal(z, *q) - _log"),
    Mutant("log_weights: no prior", "_log_normal(z, *q) - _log_normal(z, *prior)", "_log_normal(z, *q)"),
    Mutant("log_weights: sign of log p", " - _log_normal(z, *prior)", " + _log_normal(z, *prior)"),
    Mutant("2π missing", " - scale.log() - log(2 * pi) / 2", " - scale.log()"),
    Mutant("sum, not mean, of weights", ".logsumexp(0) - log(samples)", ".logsumexp(0)"),
    Mutant("mean of log-weights", ".logsumexp(0) - log(samples)", ".mean(0)"),
    Mutant("emit_scale is the variance", "return (self.emit_log_sigma / 2).exp()", "return self.emit_log_sigma.exp()"),
    # what is drawn
    Mutant("filter: axes mixed up", "z.permute(1, 2, 0, 3)", "z.permute(2, 1, 0, 3)"),
    Mutant("forecast: from the first state", "z[..., -1, :], steps)", "z[..., 0, :], steps)"),
    Mutant(
        "forecast: mask ignored", "        if mask is not None:\n            z =", "        if False:\n            z ="
    ),
    Mutant("forecast: mask of the filter ignored", "self.filter(obs, samples, mask)", "self.filter(obs, samples)"),
    Mutant("forecast: from the state before the end", "None, None] - 1, -2)", "None, None] - 2, -2)"),
    Mutant(
        "forecast: all from the longest",
        "mask.sum(-1)[None, ..., None, None]",
        "mask.sum(-1).amax().expand(obs.shape[:-2])[None, ..., None, None]",
    ),
    Mutant("sample: no sequence at all", '        check_whole(batch, "batch")\n', ""),
    Mutant("no noise of the emission", "loc + self.emit_scale * torch.randn_like(loc)", "loc"),
    Mutant("no noise of the state", "z := loc + scale * torch.randn_like(loc)", "z := loc"),
    # the parts
    Mutant("Emitter without its linear part", "self.linear(z) + self.net(z)", "self.net(z)"),
    Mutant("Transition: the step for the state", "return z + step,", "return step,"),
    Mutant("Transition: scale may be 0", "step, softplus(raw.contiguous()) + MIN_SCALE", "step, softplus(raw)"),
    Mutant(
        "Transition: exp for softplus", "step, softplus(raw.contiguous()) + MIN_SCALE", "step, raw.exp() + MIN_SCALE"
    ),
    Mutant("Posterior: weight of scales", "share = (2 * (", "share = (1 * ("),
    Mutant(
        "Posterior: scale of the message may be 0",
        "((softplus(raw.contiguous()) + MIN_SCALE).log()",
        "(softplus(raw).log()",
    ),
    Mutant("Posterior: weights exchanged", "torch.lerp(m, prior_loc, share)", "torch.lerp(prior_loc, m, share)"),
    Mutant("Posterior: variance for std", "prior_scale * share.sqrt()", "prior_scale * share"),
    Mutant("Posterior: scale may be 0", "share.sqrt(), MIN_SCALE, MIN_SCALE", "share.sqrt(), 0, 0"),
    Mutant(
        "Posterior: sees the scale, not its logarithm",
        "torch.cat([prior_loc, log_scale], -1)",
        "torch.cat([prior_loc, prior_scale], -1)",
    ),
    Mutant(
        "reads from start to end",
        "(mask.sum(1, keepdim=True) - 1 - T).remainder(obs.shape[1])",
        "T.expand(obs.shape[:2])",
    ),
    Mutant(
        "reads from the end of the padding",
        "(mask.sum(1, keepdim=True) - 1 - T)",
        "(obs.shape[1] - 1 - T).expand(obs.shape[:2])",
    ),
    Mutant("what was read stays turned around", "read.gather(1, order[..., None].expand_as(read))", "read"),
    Mutant("smoothing ignored", "SmoothingPosterior if config.smoothing else Posterior", "Posterior"),
    Mutant("emit_log_sigma of the config ignored", "float(config.emit_log_sigma)", "0.0"),
    # what is refused
    Mutant("padding kept", "obs = torch.where(mask[..., None], obs, 0.0)", "pass", "points"),
    Mutant("holes accepted", "(mask[..., 1:] & ~mask[..., :-1]).any()", "False", "points"),
    Mutant("empty sequences accepted", "not mask[..., 0].all() or ", "", "points"),
    Mutant("NaN accepted", 'require("obs", obs.detach(), obs.isfinite(), "finite numbers")', "pass", "points"),
    Mutant("mask of another shape accepted", " or mask.shape != obs.shape[:-1]", "", "points"),
    Mutant(
        "no mask: ends before the last time", "dtype=torch.bool) if mask", "dtype=torch.bool).tril() if mask", "points"
    ),
    Mutant("one number for all accepted", " or obs.shape[-1] != len(like) or", " or", "points"),
    Mutant("any dtype accepted", "if obs.dtype != like.dtype", "if False", "points"),
    Mutant("no samples accepted", '        check_whole(samples, "samples")\n', ""),
    Mutant("no steps accepted", '        check_whole(steps, "steps")\n', ""),
    Mutant("sizes not looked at", "if field.type is int", "if field.type is float"),
    Mutant("0 is a number of them", "or value < least", "or value < least - 1", "points"),
    Mutant("True is a number", "isinstance(value, bool) or not", "not", "points"),
    # what overflows
    Mutant("states without end", '        require_finite("a state", z)\n', ""),
    Mutant("longer priors without end", '                require_finite("a state", loc + scale, start=d + 1)\n', ""),
    Mutant("longer priors named too early", "start=d + 1)", "start=d)"),
    Mutant("a loss without end", '        require_finite("the loss", each + kl)\n', ""),
    Mutant("a loss whose KL has no end", 'require_finite("the loss", each + kl)', 'require_finite("the loss", each)'),
    Mutant("a reconstruction without end", 'require_finite("the loss", each + kl)', 'require_finite("the loss", kl)'),
    Mutant("a bound without end", '        require_finite("the bound", each)\n', ""),
    Mutant("observations drawn without end", "torch.cat([z, x], -1).movedim(-2, 0)", "z.movedim(-2, 0)"),
    Mutant("the sample for the time", "torch.cat([z, x], -1).movedim(-2, 0)", "torch.cat([z, x], -1)"),
    Mutant("the last time for the first", ".tolist().index(False)", ".tolist()[::-1].index(False)", "points"),
    Mutant("the first time of all sequences", "-1).all(1).tolist()", "-1).any(1).tolist()", "points"),
]

MUTANTS: dict[str, tuple[str, list[Mutant]]] = {
    "flows": ("tests/test_flows.py", FLOWS),
    "kalman": ("tests/test_kalman.py", KALMAN),
    "deep_kalman": ("tests/test_deep_kalman.py", DEEP_KALMAN),
}


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
