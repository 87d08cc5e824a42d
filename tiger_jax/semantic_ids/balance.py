"""Codes of the last level so assigned that they tell items apart, each still near its own.

It knows no schemes and trains nothing.
"""

import numpy as np
import scipy.optimize


def balanced_codes(
    codes_NL: np.ndarray, residuals_NZ: np.ndarray, codebook_CZ: np.ndarray
) -> np.ndarray:
    """The same codes but for the last level of prefixes in which some items have equal ones.

    Among the n items of such a prefix sum_i ||r_i - e_{c_i}||^2 is the least that there is with
    each of the C codes serving at most ceil(n / C) of them: an assignment problem. TIGER takes the
    nearest codeword and lets a collision token tell equals apart (section 3.1).

    Args:
      codes_NL: code of each item at each level.
      residuals_NZ: r, what the levels above leave of each item.
      codebook_CZ: e, the codewords of the last level.
    """
    codes_NL = codes_NL.copy()
    num_codes = len(codebook_CZ)
    prefix_N = np.unique(codes_NL[:, :-1], axis=0, return_inverse=True)[1].ravel()
    order_N = np.argsort(prefix_N, kind="stable")
    for rows in np.split(order_N, np.flatnonzero(np.diff(prefix_N[order_N])) + 1):
        if len(np.unique(codes_NL[rows, -1])) == len(rows):
            continue
        # ||r||^2 is the same whatever the code.
        cost_BC = (codebook_CZ**2).sum(axis=1) - 2 * residuals_NZ[rows] @ codebook_CZ.T
        places = np.tile(cost_BC, (1, -(-len(rows) // num_codes)))
        codes_NL[rows, -1] = scipy.optimize.linear_sum_assignment(places)[1] % num_codes
    return codes_NL
