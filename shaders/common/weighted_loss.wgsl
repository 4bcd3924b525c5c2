// What the general cross-entropy has in common for both kinds of target.

struct WeightedLoss {
    classes: u32,
    first: u32,         // the first class of A: WGSL has no infinity for a maximum to start from
    by_sample: u32,     // 1: a = W q, 0: a = w q
    stride: u32,
    prior_total: f32,   // the sum of class_table[k].y, rounded once, on the host
}
@group(0) @binding(1) var<uniform> dims: WeightedLoss;
@group(0) @binding(7) var<storage, read> class_table: array<vec2f>;  // [classes]: w, below 0 outside A; u or w u

struct Row {
    largest: f32,  // max over A of x
    log_sum: f32,  // s
    mass: f32,     // sum of a
    product: f32,  // sum of a z
    scale: f32,    // what multiplies the masses of all classes: W, or 1
    own: f32,      // z[y]; 0 where the target is a distribution
    kept: f32,     // what the index adds to the smoothing mass at its class, before the scale
}

fn takes_part(c: u32) -> bool {
    return class_table[c].x >= 0.0;
}

// max over A of x.
fn largest_logit(start: u32, local: u32) -> f32 {
    var own = logits[start + dims.first];
    for (var c = local; c < dims.classes; c += WORKGROUP) {
        if takes_part(c) { own = max(own, logits[start + c]); }
    }
    return max_over_group(own, local);
}

fn row_loss(row: Row) -> f32 {
    return row.mass * row.log_sum - row.product;
}

// The gradient of a class of A with the mass `mass`.
fn class_gradient(n: u32, row: Row, c: u32, mass: f32) -> f32 {
    let p = exp(logits[n * dims.classes + c] - row.largest - row.log_sum);
    return row.mass * p - mass;
}
