// Two losses that label smoothing is compared with, fused with log-softmax and their gradient: the confidence penalty
// (gamma 0; Pereyra et al. 2017) and the focal loss (beta 0; Lin et al. 2017). The target y is a class index.
//
//   z = x - max(x),  s = ln(sum over c of exp(z[c])),  p = exp(z - s),  m = 1 - p[y],  l = ln p[y]
//   H            = s - sum over c of p[c] z[c]                                    the prediction's entropy
//   loss[n]      = -m^gamma l - beta H,   nll[n] = -l
//   g            = gamma p[y] m^(gamma-1) l - m^gamma                             d(-m^gamma l) / dl
//   dlogits[n,c] = dloss[n] * (g ([c = y] - p[c]) + beta p[c] (ln p[c] + H))
//
// One workgroup owns one row; its threads stride over the classes. Sums are trees of fixed shape: the same bits every time.
// A row whose index is no class is ignored and not read: its losses and gradient are 0.

struct ComparatorLoss {
    classes: u32,
    stride: u32,  // elements from one row of dlogits to the next; zeros past `classes`
    gamma: f32,
    beta: f32,
}
@group(0) @binding(1) var<uniform> dims: ComparatorLoss;
@group(0) @binding(2) var<storage, read> logits: array<f32>;          // [n, classes]
@group(0) @binding(3) var<storage, read> targets: array<u32>;         // [n]
@group(0) @binding(4) var<storage, read_write> losses: array<vec2f>;  // [n]: loss, nll
@group(0) @binding(5) var<storage, read> dloss: array<f32>;           // [n]
@group(0) @binding(6) var<storage, read_write> dlogits: array<f32>;   // [n, stride]

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

fn reduce_row(n: u32, local: u32) -> Row {
    let start = n * dims.classes;
    // Every thread starts from a real logit: WGSL has no infinity to start from.
    var own_largest = logits[start];
    for (var c = local; c < dims.classes; c += WORKGROUP) {
        own_largest = max(own_largest, logits[start + c]);
    }
    let largest = max_over_group(own_largest, local);
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

// The losses alone.
@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let n = flat_group(group, groups);
    if n >= batch.count { return; }
    if targets[n] >= dims.classes {
        if local == 0u { losses[n] = vec2f(); }
        return;
    }
    let row = reduce_row(n, local);
    if local == 0u { losses[n] = vec2f(row.loss, row.nll); }
}

fn write_zeros(n: u32, local: u32) {
    for (var c = local; c < dims.stride; c += WORKGROUP) {
        dlogits[n * dims.stride + c] = 0.0;
    }
}

fn write_gradient(n: u32, row: Row, upstream: f32, local: u32) {
    for (var c = local; c < dims.stride; c += WORKGROUP) {
        var of_class = 0.0;
        if c < dims.classes {
            let log_p = logits[n * dims.classes + c] - row.largest - row.log_sum;
            let p = exp(log_p);
            let step = select(-p, row.miss, c == targets[n]);
            of_class = row.slope * step + dims.beta * p * (log_p + row.entropy);
        }
        dlogits[n * dims.stride + c] = upstream * of_class;
    }
}

// The gradient alone, for any upstream gradient.
@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let n = flat_group(group, groups);
    if n >= batch.count { return; }
    if targets[n] >= dims.classes {
        write_zeros(n, local);
        return;
    }
    write_gradient(n, reduce_row(n, local), dloss[n], local);
}

// Both, where the upstream gradient is one number for all rows.
@compute @workgroup_size(WORKGROUP)
fn forward_backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                    @builtin(local_invocation_index) local: u32) {
    let n = flat_group(group, groups);
    if n >= batch.count { return; }
    if targets[n] >= dims.classes {
        if local == 0u { losses[n] = vec2f(); }
        write_zeros(n, local);
        return;
    }
    let row = reduce_row(n, local);
    if local == 0u { losses[n] = vec2f(row.loss, row.nll); }
    write_gradient(n, row, loss.dloss, local);
}
