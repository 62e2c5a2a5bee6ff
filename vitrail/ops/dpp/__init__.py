"""Determinantal point processes over the patches of many images at once.

A kernel L says by L_ii how good patch i is and by L_ij how alike two patches are; a set Y of patches has the
probability det L_Y / sum over the sets that may be drawn. Sets of unlike patches are likely.

`greedy_map` looks for a likely set one patch after another, by the largest gain d_j^2 = det L_{Y+j} / det L_Y,
with an incremental Cholesky factor (Eq. 13 to 15 of the supplement of DPPMask; Chen et al. 2018, "Fast greedy
MAP inference for determinantal point process", arXiv 1709.05135): O(N k^2) time and O(N k) memory an image.
`kdpp_sample` draws exactly (Kulesza and Taskar 2012, "Determinantal point processes for machine learning",
arXiv 1207.6083, algorithms 1, 7 and 8), with elementary symmetric polynomials in the log domain, where they
do not overflow; `log_prob` and `marginal_kernel` are its probabilities.
"""

from __future__ import annotations

from vitrail.ops.dpp.exact import kdpp_sample, log_prob, marginal_kernel
from vitrail.ops.dpp.greedy import Greedy, greedy_map
from vitrail.ops.dpp.kernels import patch_kernel

__all__ = ["Greedy", "greedy_map", "kdpp_sample", "log_prob", "marginal_kernel", "patch_kernel"]
