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

struct Row {
    largest: f32,  // max(x)
    log_sum: f32,  // s
    sum: f32,      // sum of z
}

fn counts(n: u32) -> bool { return targets[n] < dims.classes; }

fn reduce_row(n: u32, local: u32) -> Row {
    let start = n * dims.classes;
    // Every thread starts from a real logit: WGSL has no infinity to start from.
    var own_largest = logits[start];
    for (var c = local; c < dims.classes; c += WORKGROUP) {
        own_largest = max(own_largest, logits[start + c]);
    }
    let largest = max_over_group(own_largest, local);
    var own = vec2f();
    for (var c = local; c < dims.classes; c += WORKGROUP) {
        let z = logits[start + c] - largest;
        own += vec2f(exp(z), z);
    }
    let sums = sum_over_group(vec4f(own, 0.0, 0.0), local);
    return Row(largest, log(sums.x), sums.y);
}

// loss and nll
fn row_losses(n: u32, row: Row, local: u32) -> vec2f {
    let own = logits[n * dims.classes + targets[n]] - row.largest;
    return vec2f(row.log_sum - loss.kept * own - loss.off * row.sum, row.log_sum - own);
}

fn row_gradient(n: u32, row: Row, c: u32) -> f32 {
    let p = exp(logits[n * dims.classes + c] - row.largest - row.log_sum);
    return p - select(loss.off, loss.on, c == targets[n]);
}
