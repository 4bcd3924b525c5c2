// Two losses that label smoothing is compared with, fused with log-softmax and their gradient: the confidence penalty
// (gamma 0; Pereyra et al. 2017) and the focal loss (beta 0; Lin et al. 2017). The target y is a class index.
//
//   z = x - max(x),  s = ln(sum over c of exp(z[c])),  p = exp(z - s),  m = 1 - p[y],  l = ln p[y]
//   H            = s - sum over c of p[c] z[c]                                    the prediction's entropy
//   loss[n]      = -m^gamma l - beta H,   nll[n] = -l
//   g            = gamma p[y] m^(gamma-1) l - m^gamma                             d(-m^gamma l) / dl
//   dlogits[n,c] = dloss[n] * (g ([c = y] - p[c]) + beta p[c] (ln p[c] + H))
//
// A row whose index is no class is ignored. common/loss.wgsl has the passes.

struct ComparatorLoss {
    classes: u32,
    stride: u32,
    gamma: f32,
    beta: f32,
}
@group(0) @binding(1) var<uniform> dims: ComparatorLoss;

struct Row {
    largest: f32,  // max(x)
    log_sum: f32,  // s
    entropy: f32,  // H
    miss: f32,     // m
    loss: f32,
    nll: f32,      // -l
    slope: f32,    // g
}

// -ln(1 - m) / m, for 0 <= m < 0.1 to f32's precision: WGSL has no log1p, and its log errs by 2^-21 near 1.
fn log_ratio(m: f32) -> f32 {
    return 1.0 + m * (1.0 / 2.0 + m * (1.0 / 3.0 + m * (1.0 / 4.0 + m * (1.0 / 5.0 + m * (1.0 / 6.0 + m / 7.0)))));
}

fn counts(n: u32) -> bool { return targets[n] < dims.classes; }

fn reduce_row(n: u32, local: u32) -> Row {
    let start = n * dims.classes;
    let largest = largest_of_row(start, local);
    var own = vec3f();
    for (var c = local; c < dims.classes; c += WORKGROUP) {
        let z = logits[start + c] - largest;
        let e = exp(z);
        own += vec3f(e, select(e, 0.0, c == targets[n]), e * z);
    }
    let sums = sum_over_group(vec4f(own, 0.0), local);
    let log_sum = log(sums.x);
    // The other classes' sum, for 1 - p[y] would cancel.
    let miss = sums.y / sums.x;
    let log_p = logits[start + targets[n]] - largest - log_sum;
    var cost = -log_p;
    var slope = -1.0;
    if dims.gamma > 0.0 {
        // m^(gamma-1) l is m^gamma (l / m), which stays finite as m goes to 0; pow is not defined there.
        var power = 0.0;
        if miss > 0.0 { power = pow(miss, dims.gamma); }
        // NaN takes the second branch and stays NaN.
        var ratio = log_ratio(miss);
        if miss < 0.1 { cost = power * miss * ratio; } else { cost = -power * log_p; ratio = -log_p / miss; }
        slope = -power * (1.0 + dims.gamma * exp(log_p) * ratio);
    }
    let entropy = log_sum - sums.z / sums.x;
    return Row(largest, log_sum, entropy, miss, cost - dims.beta * entropy, -log_p, slope);
}

fn row_losses(n: u32, row: Row, local: u32) -> vec2f { return vec2f(row.loss, row.nll); }

fn row_gradient(n: u32, row: Row, c: u32) -> f32 {
    let log_p = logits[n * dims.classes + c] - row.largest - row.log_sum;
    let p = exp(log_p);
    let step = select(-p, row.miss, c == targets[n]);
    return row.slope * step + dims.beta * p * (log_p + row.entropy);
}
