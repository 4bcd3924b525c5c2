// Log-softmax fused with the smoothed cross-entropy, and its gradient. The target is a class index: the smoothed
// distribution q is `on` at the true class and `off` elsewhere (they sum to 1), and is never stored. The two are the step's.
//
//   z = x - max(x),  s = ln(sum over c of exp(z[c]))
//   loss[n]      = s - (on - off) * z[y] - off * sum over c of z[c],   nll[n] = s - z[y]
//   dlogits[n,c] = dloss[n] * (exp(z[c] - s) - q[c])
//
// One workgroup owns one row; its threads stride over the classes, so any number of classes fits. Sums are trees of fixed
// shape: the same bits every time. A row whose index is no class is ignored and not read: its losses and gradient are 0.

struct SmoothedLoss {
    classes: u32,
}
@group(0) @binding(1) var<uniform> dims: SmoothedLoss;
@group(0) @binding(2) var<storage, read> logits: array<f32>;          // [n, classes]
@group(0) @binding(3) var<storage, read> targets: array<u32>;         // [n]
@group(0) @binding(4) var<storage, read_write> losses: array<vec2f>;  // [n]: loss, nll
@group(0) @binding(5) var<storage, read> dloss: array<f32>;           // [n]
@group(0) @binding(6) var<storage, read_write> dlogits: array<f32>;   // [n, classes]

struct Row {
    largest: f32,  // max(x)
    log_sum: f32,  // s
    sum: f32,      // sum of z
}

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
fn row_losses(n: u32, row: Row) -> vec2f {
    let own = logits[n * dims.classes + targets[n]] - row.largest;
    return vec2f(row.log_sum - loss.kept * own - loss.off * row.sum, row.log_sum - own);
}

// An ignored row's gradient.
fn write_zeros(n: u32, local: u32) {
    for (var c = local; c < dims.classes; c += WORKGROUP) {
        dlogits[n * dims.classes + c] = 0.0;
    }
}

fn write_gradient(n: u32, row: Row, upstream: f32, local: u32) {
    let start = n * dims.classes;
    for (var c = local; c < dims.classes; c += WORKGROUP) {
        let p = exp(logits[start + c] - row.largest - row.log_sum);
        dlogits[start + c] = upstream * (p - select(loss.off, loss.on, c == targets[n]));
    }
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
    if local == 0u { losses[n] = row_losses(n, row); }
}

// The gradient alone, for any upstream gradient (PyTorch's reduction='none').
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

// Both, where the upstream gradient is one number for all images (reduction='mean' or 'sum').
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
    if local == 0u { losses[n] = row_losses(n, row); }
    write_gradient(n, row, loss.dloss, local);
}
