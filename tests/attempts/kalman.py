"""What learners of the kalman section write: signature, body, and the verdict that the check should give.

A verdict is "passed", the name of a mistake, or None for an answer that fails without a name.
"""

import math

from torch.distributions import MultivariateNormal, Normal

from companion.exercises import EXERCISES
from companion.kalman import predict, update

NAMES = {  # what the chapter's notebook has imported, and what its reader has written before
    "MultivariateNormal": MultivariateNormal,
    "Normal": Normal,
    "condition": EXERCISES["condition"].reference,
    "math": math,
    "predict": predict,
    "update": update,
}

CONDITION = "condition(mean, cov, x, k)"
PREDICT = "predict_step(mean, cov, A, Q)"
UPDATE = "update_step(mean, cov, x, C, R)"
LIKELIHOOD = "innovation_log_likelihood(innovations, covs)"
SMOOTH = "smooth_step(mean, cov, next_predicted_mean, next_predicted_cov, next_mean, next_cov, A)"

ATTEMPTS = [
    (
        CONDITION,
        """K = cov[..., :k, k:] @ torch.linalg.inv(cov[..., k:, k:])
    m = mean[..., :k] + torch.einsum("...ij,...j->...i", K, x - mean[..., k:])
    return m, cov[..., :k, :k] - K @ cov[..., k:, :k]""",
        "passed",
    ),
    (
        CONDITION,
        """p = x.shape[-1]
    zz, zx = torch.split(cov[..., :k, :], [k, p], dim=-1)
    xz, xx = torch.split(cov[..., k:, :], [k, p], dim=-1)
    L = torch.linalg.cholesky(xx)
    K = torch.cholesky_solve(xz, L).transpose(-1, -2)
    return [mean[..., :k] + (K * (x - mean[..., k:]).unsqueeze(-2)).sum(-1), zz - K @ xx @ K.transpose(-1, -2)]""",
        "passed",
    ),
    (
        CONDITION,
        """lam = torch.linalg.inv(cov)
    m = mean[..., :k, None] - torch.linalg.solve(lam[..., :k, :k], lam[..., :k, k:] @ (x - mean[..., k:])[..., None])
    return m.squeeze(-1), torch.linalg.inv(lam[..., :k, :k])""",
        "passed",
    ),
    (
        CONDITION,
        """z = torch.cat([torch.eye(k), torch.zeros(k, x.shape[-1])], -1).to(cov)
    x_of = torch.cat([torch.zeros(x.shape[-1], k), torch.eye(x.shape[-1])], -1).to(cov)
    both, _ = update(mean, cov, x, x_of, 0 * cov[..., k:, k:])
    return both.mean @ z.T, z @ both.cov @ z.T""",
        "passed",  # all of (z, x) is the state, and x is seen without noise
    ),
    (
        CONDITION,
        """K = torch.linalg.solve(cov[..., k:, k:], cov[..., k:, :k])
    return mean[..., :k] + (K @ (x - mean[..., k:])[..., None])[..., 0], cov[..., :k, :k] - K @ cov[..., k:, :k]""",
        "gain_transposed",
    ),
    (
        CONDITION,
        """K = torch.linalg.solve(cov[..., k:, k:], cov[..., k:, :k])
    return mean[..., :k] + (K @ (x - mean[..., k:])[..., None])[..., 0], cov[..., :k, :k] - K.mT @ cov[..., k:, :k]""",
        "gain_of_the_mean_transposed",
    ),
    (
        CONDITION,
        """K = cov[..., :k, k:] @ torch.linalg.inv(cov[..., k:, k:])
    return mean[..., :k] + (K @ (x - mean[..., k:])[..., None])[..., 0], cov[..., :k, :k] + K @ cov[..., k:, :k]""",
        "covariance_grows",
    ),
    (
        CONDITION,
        """K_x = cov[..., k:, :k] @ torch.linalg.inv(cov[..., :k, :k])
    m = mean[..., k:] + (K_x @ (x - mean[..., :k])[..., None])[..., 0]
    return m, cov[..., k:, k:] - K_x @ cov[..., :k, k:]""",
        "z_taken_from_the_end",
    ),
    (
        CONDITION,
        """K = cov[..., :k, k:] @ torch.linalg.inv(cov[..., k:, k:])
    return mean[..., :k], cov[..., :k, :k] - K @ cov[..., k:, :k]""",
        "mean_not_moved",
    ),
    (
        CONDITION,
        """K = cov[..., :k, k:] @ torch.linalg.inv(cov[..., :k, :k])
    return mean[..., :k] + (K @ (x - mean[..., k:])[..., None])[..., 0], cov[..., :k, :k] - K @ cov[..., k:, :k]""",
        "inverse_of_the_wrong_block",
    ),
    (
        CONDITION,
        """K = cov[..., :k, k:] @ torch.linalg.inv(cov[..., k:, k:])
    return mean[..., :k] + (K @ x[..., None])[..., 0], cov[..., :k, :k] - K @ cov[..., k:, :k]""",
        "x_not_centred",
    ),
    (
        CONDITION,
        """K = cov[..., :k, k:] @ torch.linalg.inv(cov[..., k:, k:])
    return mean[..., :k] + K @ (x - mean[..., k:]), cov[..., :k, :k] - K @ cov[..., k:, :k]""",
        "points_taken_for_columns",
    ),
    (
        CONDITION,
        """K = cov[..., :k, k:] / torch.diagonal(cov[..., k:, k:], dim1=-2, dim2=-1).unsqueeze(-2)
    return mean[..., :k] + (K @ (x - mean[..., k:])[..., None])[..., 0], cov[..., :k, :k] - K @ cov[..., k:, :k]""",
        "variances_of_x_alone",
    ),
    (
        CONDITION,
        """lam = torch.linalg.inv(cov)
    K = cov[..., :k, k:] @ torch.linalg.inv(cov[..., k:, k:])
    return mean[..., :k] + (K @ (x - mean[..., k:])[..., None])[..., 0], lam[..., :k, :k]""",
        "precision_for_covariance",
    ),
    (
        CONDITION,
        """p = x.shape[-1]
    K = cov[..., p:, :p] @ torch.linalg.inv(cov[..., :p, :p])
    return mean[..., p:] + (K @ (x - mean[..., :p])[..., None])[..., 0], cov[..., p:, p:] - K @ cov[..., :p, p:]""",
        "z_taken_from_the_end",
    ),
    (
        CONDITION,
        """K = cov[..., :k, k:] @ torch.linalg.inv(cov[..., k:, k:])
    return mean[..., :k] + (K @ (x - mean[..., k:])[..., None])[..., 0]""",
        None,  # the mean alone
    ),
    (
        CONDITION,
        """K = cov[:k, k:] @ torch.linalg.inv(cov[k:, k:])
    return mean[:k] + K @ (x - mean[k:]), cov[:k, :k] - K @ cov[k:, :k]""",
        None,  # right for one point; in a batch, points are cut out instead of coordinates
    ),
    # predict_step
    (
        PREDICT,
        "return (A @ mean.unsqueeze(-1)).squeeze(-1), A @ cov @ A.T + Q",
        "passed",
    ),
    (
        PREDICT,
        "return tuple(predict(mean, cov, A, Q))",
        "passed",
    ),
    (
        PREDICT,
        """m = torch.tensordot(mean, A, dims=([-1], [1]))
    half = torch.einsum("ij,...jk->...ik", A, cov)
    return m, torch.matmul(half, A.transpose(0, 1)) + Q""",
        "passed",
    ),
    (
        PREDICT,
        """m, P = mean.reshape(-1, mean.shape[-1]), cov.reshape(-1, *cov.shape[-2:])
    ms, Ps = [A @ a for a in m], [A @ B @ A.T + Q for B in P]
    return torch.stack(ms).reshape(mean.shape), torch.stack(Ps).reshape(cov.shape)""",
        "passed",
    ),
    (
        PREDICT,
        """both = torch.cat([A, torch.eye(len(A)).to(A)], -1)
    joint = torch.zeros(*cov.shape[:-2], 2 * len(A), 2 * len(A)).to(A)
    joint[..., : len(A), : len(A)] = cov
    joint[..., len(A) :, len(A) :] = Q
    return mean @ A.T, both @ joint @ both.T""",
        "passed",
    ),
    (
        PREDICT,
        "return mean @ A.T, A @ cov @ A + Q",
        "second_A_not_transposed",
    ),
    (
        PREDICT,
        "return mean @ A.T, A.T @ cov @ A + Q",
        "first_A_transposed",
    ),
    (
        PREDICT,
        "return mean @ A, A.T @ cov @ A + Q",
        "moved_by_A_transposed",
    ),
    (
        PREDICT,
        "return mean @ A.T, A @ cov @ A.T + Q**2",
        "entries_of_Q_squared",
    ),
    (
        PREDICT,
        "return mean @ A.T, A @ cov @ A.T + torch.matmul(Q, Q.T)",
        "Q_taken_for_a_scale",
    ),
    (
        PREDICT,
        "return mean @ A.T, A @ cov @ A.T",
        "noise_forgotten",
    ),
    (
        PREDICT,
        "return mean + mean @ A.T, A @ cov @ A.T + Q",
        "mean_plus_its_step",
    ),
    (
        PREDICT,
        "return mean, A @ cov @ A.T + Q",
        "mean_stands_still",
    ),
    (
        PREDICT,
        "return mean @ A.T @ A.T, A @ cov @ A.T + Q",
        "mean_two_steps_ahead",
    ),
    (
        PREDICT,
        "return mean @ A, A @ cov @ A.T + Q",
        "mean_times_A_transposed",
    ),
    (
        PREDICT,
        "return A @ mean, A @ cov @ A.T + Q",
        "A_times_the_batch",
    ),
    (
        PREDICT,
        "return mean @ A.T, A @ (cov + Q) @ A.T",
        "noise_before_the_step",
    ),
    (
        PREDICT,
        "return mean @ A.T, A**2 @ cov + Q",
        None,
    ),
    (
        PREDICT,
        "return mean @ A.T, A @ A @ cov + Q",
        "A_squared_on_the_left",
    ),
    (
        PREDICT,
        "return mean @ A.T, cov + Q",
        "covariance_stands_still",
    ),
    (
        PREDICT,
        """m = mean @ A.T
    noise = MultivariateNormal(torch.zeros(len(Q)).to(Q), Q).sample()
    return m + noise, A @ cov @ A.T + Q""",
        None,  # a draw for a moment
    ),
    (
        PREDICT,
        """mean[:] = mean @ A.T
    cov[:] = A @ cov @ A.T + Q
    return mean, cov""",
        None,  # in place
    ),
    (
        PREDICT,
        """m = mean @ A.T
    second = A @ (cov + mean[..., :, None] * mean[..., None, :]) @ A.T
    return m, second + Q""",
        "second_moment_for_covariance",
    ),
    # update_step
    (
        UPDATE,
        """S = C @ cov @ C.T + R
    K = cov @ C.T @ torch.linalg.inv(S)
    innovation = x - (C @ mean.unsqueeze(-1)).squeeze(-1)
    I = torch.eye(mean.shape[-1], dtype=mean.dtype)
    return mean + (K @ innovation.unsqueeze(-1)).squeeze(-1), (I - K @ C) @ cov""",
        "passed",
    ),
    (
        UPDATE,
        """S = C @ cov @ C.T + R
    K = torch.linalg.solve(S, C @ cov).transpose(-1, -2)
    IKC = torch.eye(len(C[0])).to(C) - K @ C
    m = mean + torch.einsum("...ij,...j->...i", K, x - mean @ C.T)
    return m, IKC @ cov @ IKC.mT + K @ R @ K.mT""",
        "passed",
    ),
    (
        UPDATE,
        """top = torch.cat([cov, cov @ C.T], -1)
    bottom = torch.cat([C @ cov, C @ cov @ C.T + R], -1)
    return condition(torch.cat([mean, mean @ C.T], -1), torch.cat([top, bottom], -2), x, mean.shape[-1])""",
        "passed",
    ),
    (
        UPDATE,
        """L = torch.linalg.inv(cov) + C.T @ torch.linalg.inv(R) @ C
    eta = torch.linalg.solve(cov, mean[..., None]) + C.T @ torch.linalg.inv(R) @ x[..., None]
    return torch.linalg.solve(L, eta)[..., 0], torch.linalg.inv(L)""",
        "passed",
    ),
    (
        UPDATE,
        """S = C @ cov @ C.T + R
    K = cov @ C.T @ torch.linalg.inv(S)
    return mean + (K @ (x - mean @ C.T)[..., None])[..., 0], cov - K @ S @ K.mT""",
        "passed",
    ),
    (
        UPDATE,
        """K = cov @ C.T @ torch.linalg.inv(C @ cov @ C.T)
    return mean + (K @ (x - mean @ C.T)[..., None])[..., 0], cov - K @ C @ cov""",
        "gain_without_noise",
    ),
    (
        UPDATE,
        """K = cov @ C.T @ torch.linalg.inv(R)
    return mean + (K @ (x - mean @ C.T)[..., None])[..., 0], cov - K @ C @ cov""",
        "gain_divided_by_noise_alone",
    ),
    (
        UPDATE,
        """K = cov @ C.T @ torch.linalg.inv(C @ cov @ C.T + R)
    return mean + (K @ (mean @ C.T - x)[..., None])[..., 0], cov - K @ C @ cov""",
        "innovation_of_the_wrong_sign",
    ),
    (
        UPDATE,
        """K = cov @ C.T @ torch.linalg.inv(C @ cov @ C.T + R)
    return mean - (K @ (x - mean @ C.T)[..., None])[..., 0], cov - K @ C @ cov""",
        "innovation_of_the_wrong_sign",
    ),
    (
        UPDATE,
        """K = cov @ C.T @ torch.linalg.inv(C @ cov @ C.T + R)
    return mean + (K @ (x - mean)[..., None])[..., 0], cov - K @ C @ cov""",
        "innovation_without_C",
    ),
    (
        UPDATE,
        """K = cov @ C.T @ torch.linalg.inv(C @ cov @ C.T + R)
    return mean + (K @ x[..., None])[..., 0], cov - K @ C @ cov""",
        "gain_times_x",
    ),
    (
        UPDATE,
        """K = cov @ C.T @ torch.linalg.inv(C @ cov @ C.T + R)
    return mean + (K @ (x - mean @ C.T)[..., None])[..., 0], (1 - K @ C) @ cov""",
        "ones_for_identity",
    ),
    (
        UPDATE,
        """K = cov @ C.T @ torch.linalg.inv(C @ cov @ C.T + R)
    J = torch.eye(mean.shape[-1], dtype=mean.dtype) + K @ C
    return mean + (K @ (x - mean @ C.T)[..., None])[..., 0], J @ cov""",
        "spread_grows",
    ),
    (
        UPDATE,
        """K = cov @ C.T @ torch.linalg.inv(C @ cov @ C.T + R)
    return mean + (K @ (x - mean @ C.T)[..., None])[..., 0], torch.eye(mean.shape[-1], dtype=mean.dtype) - K @ C""",
        "share_for_covariance",
    ),
    (
        UPDATE,
        """K = cov @ C.T @ torch.linalg.inv(C @ cov @ C.T + R)
    J = torch.eye(mean.shape[-1], dtype=mean.dtype) - K @ C
    return mean + (K @ (x - mean @ C.T)[..., None])[..., 0], cov @ J""",
        "factor_behind_P",
    ),
    (
        UPDATE,
        """K = cov @ C.T @ torch.linalg.inv(C @ cov @ C.T + R @ R.T)
    return mean + (K @ (x - mean @ C.T)[..., None])[..., 0], cov - K @ C @ cov""",
        "R_taken_for_a_scale",
    ),
    (
        UPDATE,
        """K = cov @ C.T @ torch.linalg.inv(C @ cov @ C.T + R**2)
    return mean + (K @ (x - mean @ C.T)[..., None])[..., 0], cov - K @ C @ cov""",
        "entries_of_R_squared",
    ),
    (
        UPDATE,
        """K = cov @ C.T @ torch.linalg.inv(C @ cov @ C.T + R)
    return mean + (K @ (x - mean @ C.T)[..., None])[..., 0], cov""",
        "spread_not_updated",
    ),
    (
        UPDATE,
        """K = torch.linalg.solve(C @ cov @ C.T + R, C @ cov)
    return mean + (K @ (x - mean @ C.T)[..., None])[..., 0], cov - K @ C @ cov""",
        "kalman_gain_transposed",
    ),
    (
        UPDATE,
        """K = torch.linalg.solve(C @ cov @ C.T + R, cov @ C.T)
    return mean + (K @ (x - mean @ C.T)[..., None])[..., 0], cov - K @ C @ cov""",
        "gain_factors_in_the_wrong_order",
    ),
    (
        UPDATE,
        """K = cov @ C.T @ torch.linalg.inv(C @ cov @ C.T + R)
    J = torch.eye(mean.shape[-1], dtype=mean.dtype) - K @ C
    return mean + (K @ (x - mean @ C.T)[..., None])[..., 0], J @ cov @ J.mT""",
        "joseph_without_noise",
    ),
    (
        UPDATE,
        """K = cov @ C.T @ torch.linalg.inv(cov + R)
    return mean + (K @ (x - mean @ C.T)[..., None])[..., 0], cov - K @ C @ cov""",
        "S_without_C",
    ),
    (
        UPDATE,
        """K = C.T @ torch.linalg.inv(C @ cov @ C.T + R)
    return mean + (K @ (x - mean @ C.T)[..., None])[..., 0], cov - K @ C @ cov""",
        "gain_without_P",
    ),
    (
        UPDATE,
        """K = cov @ C.T @ torch.linalg.inv(C @ cov @ C.T + R)
    return mean + (K @ (x - C @ mean)[..., None])[..., 0], cov - K @ C @ cov""",
        "C_times_the_batch",
    ),
    (
        UPDATE,
        """K = cov @ C.T @ torch.linalg.inv(C @ cov @ C.T + R)
    return mean + K @ (x - mean @ C.T), cov - K @ C @ cov""",
        "innovations_taken_for_columns",
    ),
    (
        UPDATE,
        """K = cov @ C.T / (C @ cov @ C.T + R)
    return mean + (K @ (x - mean @ C.T)[..., None])[..., 0], cov - K @ C @ cov""",
        None,  # a division entry by entry
    ),
    (
        UPDATE,
        "return update(mean, cov, x, C, R)",
        None,  # the likelihood came along
    ),
    # innovation_log_likelihood
    (
        LIKELIHOOD,
        "return MultivariateNormal(torch.zeros_like(innovations), covs).log_prob(innovations).sum(-1)",
        "passed",
    ),
    (
        LIKELIHOOD,
        """p = innovations.shape[-1]
    quad = (innovations.unsqueeze(-2) @ torch.linalg.inv(covs) @ innovations.unsqueeze(-1)).squeeze(-1).squeeze(-1)
    return (-0.5 * (quad + torch.linalg.slogdet(covs)[1] + p * math.log(2 * math.pi))).sum(dim=-1)""",
        "passed",
    ),
    (
        LIKELIHOOD,
        """T, p = innovations.shape[-2:]
    L = torch.linalg.cholesky(covs)
    w = torch.linalg.solve_triangular(L, innovations[..., None], upper=False)
    log_det = torch.diagonal(L, dim1=-2, dim2=-1).log().sum((-1, -2))
    return -0.5 * w.pow(2).sum((-1, -2, -3)) - log_det - 0.5 * T * p * math.log(2 * math.pi)""",
        "passed",
    ),
    (
        LIKELIHOOD,
        """total = 0
    for t in range(innovations.shape[-2]):
        e, S = innovations[..., t, :], covs[..., t, :, :]
        total = total - 0.5 * torch.logdet(2 * math.pi * S) - 0.5 * torch.einsum("...i,...ij,...j", e, S.inverse(), e)
    return total""",
        "passed",
    ),
    (
        LIKELIHOOD,
        """q = (innovations * torch.linalg.solve(covs, innovations[..., None])[..., 0]).sum(-1)
    T, p = innovations.shape[-2:]
    return -0.5 * (q + torch.logdet(covs)).sum(-1)""",
        "constant_forgotten",
    ),
    (
        LIKELIHOOD,
        """q = (innovations * torch.linalg.solve(covs, innovations[..., None])[..., 0]).sum(-1)
    T, p = innovations.shape[-2:]
    return -0.5 * (q + torch.logdet(covs)).sum(-1) - 0.5 * p * math.log(2 * math.pi)""",
        "constant_once_for_all_times",
    ),
    (
        LIKELIHOOD,
        """q = (innovations * torch.linalg.solve(covs, innovations[..., None])[..., 0]).sum(-1)
    T, p = innovations.shape[-2:]
    return -0.5 * (q + torch.logdet(covs) + math.log(2 * math.pi)).sum(-1)""",
        "constant_of_one_number",
    ),
    (
        LIKELIHOOD,
        """q = (innovations * torch.linalg.solve(covs, innovations[..., None])[..., 0]).sum(-1)
    T, p = innovations.shape[-2:]
    return -0.5 * (q - torch.logdet(covs) + p * math.log(2 * math.pi)).sum(-1)""",
        "log_det_added",
    ),
    (
        LIKELIHOOD,
        """q = (innovations * torch.linalg.solve(covs, innovations[..., None])[..., 0]).sum(-1)
    T, p = innovations.shape[-2:]
    return -(q + torch.logdet(covs) + p * math.log(2 * math.pi)).sum(-1)""",
        "half_forgotten",
    ),
    (
        LIKELIHOOD,
        """q = (innovations * torch.linalg.solve(covs, innovations[..., None])[..., 0]).sum(-1)
    T, p = innovations.shape[-2:]
    return -0.5 * (q + torch.logdet(covs) + p * math.log(2 * math.pi)).mean(-1)""",
        "times_averaged",
    ),
    (
        LIKELIHOOD,
        """q = (innovations * torch.linalg.solve(covs, innovations[..., None])[..., 0]).sum(-1)
    T, p = innovations.shape[-2:]
    return -0.5 * (q + torch.logdet(covs) + p * math.log(2 * math.pi))""",
        "times_not_added",
    ),
    (
        LIKELIHOOD,
        """q = (innovations * torch.linalg.solve(covs, innovations[..., None])[..., 0]).sum(-1)
    T, p = innovations.shape[-2:]
    return -0.5 * (q + torch.logdet(covs) + p * math.log(2 * math.pi)).sum()""",
        "series_added",
    ),
    (
        LIKELIHOOD,
        """q = (innovations * torch.linalg.solve(covs, innovations[..., None])[..., 0]).sum(-1)
    T, p = innovations.shape[-2:]
    return 0.5 * (q + torch.logdet(covs) + p * math.log(2 * math.pi)).sum(-1)""",
        "loss_for_log_likelihood",
    ),
    (
        LIKELIHOOD,
        """q = (innovations * torch.linalg.solve(covs, innovations[..., None])[..., 0]).sum(-1)
    T, p = innovations.shape[-2:]
    return -0.5 * q.sum(-1) - torch.logdet(covs).sum(-1) - T * p / 2 * math.log(2 * math.pi)""",
        "log_det_not_halved",
    ),
    (
        LIKELIHOOD,
        """q = (innovations * torch.linalg.solve(covs, innovations[..., None])[..., 0]).sum(-1)
    T, p = innovations.shape[-2:]
    return -0.5 * (q + torch.logdet(covs.sum(-3))[..., None] / T + p * math.log(2 * math.pi)).sum(-1)""",
        "determinant_of_the_sum",
    ),
    (
        LIKELIHOOD,
        """q = (innovations * torch.linalg.solve(covs, innovations[..., None])[..., 0]).sum(-1)
    T, p = innovations.shape[-2:]
    return -0.5 * (q + torch.linalg.det(covs) + p * math.log(2 * math.pi)).sum(-1)""",
        "determinant_without_its_logarithm",
    ),
    (
        LIKELIHOOD,
        """L = torch.linalg.cholesky(covs)
    w = torch.linalg.solve_triangular(L, innovations[..., None], upper=False)[..., 0]
    log_det = L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * ((w**2).sum(-1) + log_det + innovations.shape[-1] * math.log(2 * math.pi)).sum(-1)""",
        "factor_counted_once",
    ),
    (
        LIKELIHOOD,
        "return Normal(0, covs.diagonal(dim1=-2, dim2=-1)).log_prob(innovations).sum((-1, -2))",
        "variances_taken_for_scales",
    ),
    (
        LIKELIHOOD,
        "return Normal(0, covs.diagonal(dim1=-2, dim2=-1).sqrt()).log_prob(innovations).sum((-1, -2))",
        "diagonal_of_S_alone",
    ),
    (
        LIKELIHOOD,
        "return MultivariateNormal(torch.zeros_like(innovations), precision_matrix=covs).log_prob(innovations).sum(-1)",
        None,  # a covariance for a precision
    ),
    (
        LIKELIHOOD,
        "return MultivariateNormal(torch.zeros_like(innovations), covs).log_prob(innovations).sum(0)",
        "added_over_the_first_axis",
    ),
    # smooth_step
    (
        SMOOTH,
        """G = cov @ A.T @ torch.linalg.inv(next_predicted_cov)
    m = mean + (G @ (next_mean - next_predicted_mean).unsqueeze(-1)).squeeze(-1)
    return m, cov + G @ (next_cov - next_predicted_cov) @ G.transpose(-1, -2)""",
        "passed",
    ),
    (
        SMOOTH,
        """L = torch.linalg.cholesky(next_predicted_cov)
    G = torch.cholesky_solve(A @ cov, L).mT
    m = mean - torch.einsum("...ij,...j->...i", G, next_predicted_mean - next_mean)
    return m, cov - G @ (next_predicted_cov - next_cov) @ G.mT""",
        "passed",
    ),
    (
        SMOOTH,
        """d = len(A)
    joint = torch.cat([torch.cat([cov, cov @ A.T], -1), torch.cat([A @ cov, next_predicted_cov], -1)], -2)
    m, P = condition(torch.cat([mean, mean @ A.T], -1), joint, next_mean, d)
    G = torch.linalg.solve(next_predicted_cov, A @ cov).mT
    return m, P + G @ next_cov @ G.mT""",
        "passed",
    ),
    (
        SMOOTH,
        """Q = next_predicted_cov - A @ cov @ A.T
    G = cov @ A.T @ torch.linalg.inv(A @ cov @ A.T + Q)
    J = torch.eye(len(A)).to(A) - G @ A
    return mean + (G @ (next_mean - mean @ A.T)[..., None])[..., 0], J @ cov @ J.mT + G @ (Q + next_cov) @ G.mT""",
        "passed",
    ),
    (
        SMOOTH,
        """G = cov @ A @ torch.linalg.inv(next_predicted_cov)
    m = mean + (G @ (next_mean - next_predicted_mean)[..., None])[..., 0]
    return m, cov + G @ (next_cov - next_predicted_cov) @ G.mT""",
        "gain_with_A_not_transposed",
    ),
    (
        SMOOTH,
        """G = cov @ A.T @ torch.linalg.inv(next_cov)
    m = mean + (G @ (next_mean - next_predicted_mean)[..., None])[..., 0]
    return m, cov + G @ (next_cov - next_predicted_cov) @ G.mT""",
        "gain_divided_by_the_smoothed",
    ),
    (
        SMOOTH,
        """G = cov @ torch.linalg.inv(next_predicted_cov)
    m = mean + (G @ (next_mean - next_predicted_mean)[..., None])[..., 0]
    return m, cov + G @ (next_cov - next_predicted_cov) @ G.mT""",
        "gain_without_A",
    ),
    (
        SMOOTH,
        """G = torch.linalg.solve(next_predicted_cov, A @ cov)
    m = mean + (G @ (next_mean - next_predicted_mean)[..., None])[..., 0]
    return m, cov + G @ (next_cov - next_predicted_cov) @ G.mT""",
        "smoother_gain_transposed",
    ),
    (
        SMOOTH,
        """G = torch.linalg.solve(next_predicted_cov, cov @ A.T)
    m = mean + (G @ (next_mean - next_predicted_mean)[..., None])[..., 0]
    return m, cov + G @ (next_cov - next_predicted_cov) @ G.mT""",
        "smoother_gain_in_the_wrong_order",
    ),
    (
        SMOOTH,
        """G = cov @ A.T @ torch.linalg.inv(next_predicted_cov)
    m = mean + (G @ (next_mean - next_predicted_mean)[..., None])[..., 0]
    return m, cov + G @ (next_predicted_cov - next_cov) @ G.mT""",
        "covariances_subtracted_the_wrong_way",
    ),
    (
        SMOOTH,
        """G = cov @ A.T @ torch.linalg.inv(next_predicted_cov)
    m = mean + (G @ (next_predicted_mean - next_mean)[..., None])[..., 0]
    return m, cov + G @ (next_cov - next_predicted_cov) @ G.mT""",
        "means_subtracted_the_wrong_way",
    ),
    (
        SMOOTH,
        """G = cov @ A.T @ torch.linalg.inv(next_predicted_cov)
    m = mean + (G @ (next_mean - next_predicted_mean)[..., None])[..., 0]
    return m, cov + G @ next_cov @ G.mT""",
        "predicted_covariance_forgotten",
    ),
    (
        SMOOTH,
        """G = cov @ A.T @ torch.linalg.inv(next_predicted_cov)
    m = mean + (G @ (next_mean - next_predicted_mean)[..., None])[..., 0]
    return m, cov - G @ next_predicted_cov @ G.mT""",
        "smoothed_covariance_forgotten",
    ),
    (
        SMOOTH,
        """G = cov @ A.T @ torch.linalg.inv(next_predicted_cov)
    m = mean + (G @ (next_mean - next_predicted_mean)[..., None])[..., 0]
    return m, cov + G @ (next_cov - next_predicted_cov)""",
        "covariance_with_one_gain",
    ),
    (
        SMOOTH,
        """G = cov @ A.T @ torch.linalg.inv(next_predicted_cov)
    m = mean + (G @ (next_mean - next_predicted_mean)[..., None])[..., 0]
    return m, cov + G @ (next_cov - next_predicted_cov) @ G""",
        "second_gain_not_transposed",
    ),
    (
        SMOOTH,
        """G = cov @ A.T @ torch.linalg.inv(next_predicted_cov)
    m = mean + (G @ (next_mean - next_predicted_mean)[..., None])[..., 0]
    return m, cov + G.mT @ (next_cov - next_predicted_cov) @ G""",
        "first_gain_transposed",
    ),
    (
        SMOOTH,
        """G = cov @ A.T @ torch.linalg.inv(next_predicted_cov)
    m = mean + (G @ (next_mean - mean)[..., None])[..., 0]
    return m, cov + G @ (next_cov - next_predicted_cov) @ G.mT""",
        "compared_with_its_own_mean",
    ),
    (
        SMOOTH,
        """G = cov @ A.T @ torch.linalg.inv(next_predicted_cov)
    m = mean + (G @ next_mean[..., None])[..., 0]
    return m, cov + G @ (next_cov - next_predicted_cov) @ G.mT""",
        "predicted_mean_forgotten",
    ),
    (
        SMOOTH,
        """G = cov @ A.T @ torch.linalg.inv(next_predicted_cov)
    m = mean + (G @ (next_mean - next_predicted_mean @ A.T)[..., None])[..., 0]
    return m, cov + G @ (next_cov - next_predicted_cov) @ G.mT""",
        "A_applied_to_the_predicted",
    ),
    (
        SMOOTH,
        """G = cov @ A.T @ torch.linalg.inv(next_predicted_cov)
    m = mean + G @ (next_mean - next_predicted_mean)
    return m, cov + G @ (next_cov - next_predicted_cov) @ G.mT""",
        "differences_taken_for_columns",
    ),
    (
        SMOOTH,
        """G = cov @ A.T @ torch.linalg.inv(next_predicted_cov)
    m = next_predicted_mean + (G @ (next_mean - next_predicted_mean)[..., None])[..., 0]
    return m, next_predicted_cov + G @ (next_cov - next_predicted_cov) @ G.mT""",
        "started_from_the_predicted",
    ),
    (
        SMOOTH,
        """B = torch.linalg.inv(A)
    return next_mean @ B.T, B @ next_cov @ B.T""",
        "step_undone",
    ),
    (
        SMOOTH,
        """G = cov @ A.T @ torch.linalg.inv(next_predicted_cov)
    P = cov + G @ (next_cov - next_predicted_cov) @ G.mT
    return P, mean + (G @ (next_mean - next_predicted_mean)[..., None])[..., 0]""",
        "smoothed_spread_before_mean",
    ),
    (
        SMOOTH,
        """G = cov @ A.T @ torch.linalg.inv(next_predicted_cov)
    m = mean + (G @ (next_mean - next_predicted_mean)[..., None])[..., 0]
    return m""",
        None,  # the mean alone
    ),
    (
        SMOOTH,
        "return update(mean, cov, next_mean, A, next_predicted_cov - A @ cov @ A.T)[0]",
        "smoothed_covariance_forgotten",  # the next state taken for a number that has been seen
    ),
]
