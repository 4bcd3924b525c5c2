// Log-softmax fused with the smoothed cross-entropy of a mixed image, and its gradient. It has two labels: its own a,
// and b of its partner, the image as far from the batch's end as this one is from its beginning. With wa = share where
// a is a class and 0 where it is ignored, wb = 1 - share likewise, w = wa + wb, and the rest as in smoothed_loss.wgsl:
//
//   loss[n]      = w (s - off sum) - (on - off) (wa z[a] + wb z[b]),   nll[n] = w s - wa z[a] - wb z[b]
//   dlogits[n,c] = dloss[n] * (w (exp(z[c] - s) - off) - (on - off) (wa [c = a] + wb [c = b]))
//
// A row of which neither label is a class is ignored. common/loss.wgsl has the passes.

struct MixedLoss {
    classes: u32,
    stride: u32,
}
@group(0) @binding(1) var<uniform> dims: MixedLoss;

// Both labels.
fn labels_of(n: u32) -> vec2u { return vec2u(targets[n], targets[batch.count - 1u - n]); }

// wa and wb.
fn shares(labels: vec2u) -> vec2f {
    return select(vec2f(), vec2f(part.share, 1.0 - part.share), labels < vec2u(dims.classes));
}

fn counts(n: u32) -> bool { return any(labels_of(n) < vec2u(dims.classes)); }

// loss and nll
fn row_losses(n: u32, row: Row, local: u32) -> vec2f {
    let labels = labels_of(n);
    let share = shares(labels);
    let start = n * dims.classes;
    // An ignored label has no logit: what stands in for it has no share.
    let at = min(labels, vec2u(dims.classes - 1u));
    let own = dot(share, vec2f(logits[start + at.x], logits[start + at.y]) - row.largest);
    let w = share.x + share.y;
    return vec2f(w * (row.log_sum - loss.off * row.sum) - loss.kept * own, w * row.log_sum - own);
}

fn row_gradient(n: u32, row: Row, c: u32) -> f32 {
    let labels = labels_of(n);
    let share = shares(labels);
    let p = exp(logits[n * dims.classes + c] - row.largest - row.log_sum);
    let own = dot(share, select(vec2f(), vec2f(1.0), labels == vec2u(c)));
    return (share.x + share.y) * (p - loss.off) - loss.kept * own;
}
