//! Log-softmax fused with the smoothed cross-entropy, and its gradient. The target is a class index; the smoothed
//! distribution is two numbers ([`crate::smoothing::Masses`]) and never a tensor.
//!
//! With z = x - max(x), s = ln(sum of exp z), and q the target with `on` at class y and `off` elsewhere (they sum to 1):
//!
//! ```text
//! loss[n]      = -sum over c of q[c] * (z[c] - s)  =  s - (on - off) * z[y] - off * sum over c of z[c]
//! dlogits[n,c] = dloss[n] * (exp(z[c] - s) - q[c])
//! ```
