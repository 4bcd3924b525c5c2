// Log-softmax fused with the smoothed cross-entropy, and its gradient. The target is a class index: the smoothed
// distribution q is `on` at the true class and `off` elsewhere (they sum to 1), and is never stored. The two are the
// step's.
//
//   z = x - max(x),  s = ln(sum over c of exp(z[c]))
//   loss[n]      = s - (on - off) * z[y] - off * sum over c of z[c],   nll[n] = s - z[y]
//   dlogits[n,c] = dloss[n] * (exp(z[c] - s) - q[c])
//
// A row whose index is no class is ignored. common/loss.wgsl has the passes.

struct SmoothedLoss {
    classes: u32,
    stride: u32,
}
@group(0) @binding(1) var<uniform> dims: SmoothedLoss;

fn counts(n: u32) -> bool { return targets[n] < dims.classes; }

// loss and nll
fn row_losses(n: u32, row: Row, local: u32) -> vec2f {
    let own = logits[n * dims.classes + targets[n]] - row.largest;
    return vec2f(row.log_sum - loss.kept * own - loss.off * row.sum, row.log_sum - own);
}

fn row_gradient(n: u32, row: Row, c: u32) -> f32 {
    let p = exp(logits[n * dims.classes + c] - row.largest - row.log_sum);
    return p - select(loss.off, loss.on, c == targets[n]);
}
