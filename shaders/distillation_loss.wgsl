// Distillation from a teacher (Hinton, Vinyals, Dean 2015), fused with both softmaxes and its gradient. The target y is a
// class index, smoothed as in smoothed_loss.wgsl: q is the step's `on` at y and `off` elsewhere. x are the student's logits, v
// the teacher's, T the temperature.
//
//   z = x - max(x),  s = ln(sum over c of exp(z[c])),  p = exp(z - s)            the student's softmax
//   ln u = z / T - ln(sum of exp(z / T))                                        the student's at T
//   ln t = (v - max(v)) / T - ln(sum of exp((v - max(v)) / T))                  the teacher's at T
//   loss[n]      = (1 - alpha) * (s - kept * z[y] - off * sum of z) + alpha T^2 * sum of t (ln t - ln u)
//   nll[n]       = s - z[y]
//   dlogits[n,c] = dloss[n] * ((1 - alpha) (p[c] - q[c]) + alpha T (u[c] - t[c]))
//
// One workgroup owns one row; its threads stride over the classes, and neither softmax is stored. The teacher's logits are
// read where the data set has them, by the epoch's order. Sums are trees of fixed shape: the same bits every time. A row whose
// index is no class is ignored and not read: its losses and gradient are 0.

struct DistillationLoss {
    classes: u32,
    stride: u32,              // elements from one row of dlogits to the next; zeros past `classes`
    inverse_temperature: f32,  // these are rounded once, on the host: 1 / T,
    hard: f32,                 // 1 - alpha,
    soft: f32,                 // alpha T^2,
    soft_slope: f32,           // alpha T
}
@group(0) @binding(1) var<uniform> dims: DistillationLoss;
@group(0) @binding(2) var<storage, read> logits: array<f32>;          // [n, classes]
@group(0) @binding(3) var<storage, read> targets: array<u32>;         // [n]
@group(0) @binding(4) var<storage, read> teacher: array<f32>;         // [images of the data set, classes]: logits
@group(0) @binding(5) var<storage, read> order: array<u32>;           // [images of the epoch]
@group(0) @binding(6) var<storage, read_write> losses: array<vec2f>;  // [n]: loss, nll
@group(0) @binding(7) var<storage, read> dloss: array<f32>;           // [n]
@group(0) @binding(8) var<storage, read_write> dlogits: array<f32>;   // [n, stride]

struct Row {
    start: u32,            // of the student's logits
    teacher_start: u32,    // of the teacher's
    largest: f32,          // max(x)
    teacher_largest: f32,  // max(v)
    log_sum: f32,          // s
    student_sum: f32,      // ln(sum of exp(z / T))
    teacher_sum: f32,      // ln(sum of exp((v - max(v)) / T))
    sum: f32,              // sum of z
}

fn reduce_row(n: u32, local: u32) -> Row {
    var row: Row;
    row.start = n * dims.classes;
    row.teacher_start = order[batch.first + n] * dims.classes;
    // Every thread starts from a real logit: WGSL has no infinity to start from.
    var own_largest = vec2f(logits[row.start], teacher[row.teacher_start]);
    for (var c = local; c < dims.classes; c += WORKGROUP) {
        own_largest = max(own_largest, vec2f(logits[row.start + c], teacher[row.teacher_start + c]));
    }
    row.largest = max_over_group(own_largest.x, local);
    row.teacher_largest = max_over_group(own_largest.y, local);
    var own = vec4f();
    for (var c = local; c < dims.classes; c += WORKGROUP) {
        let z = logits[row.start + c] - row.largest;
        let v = teacher[row.teacher_start + c] - row.teacher_largest;
        own += vec4f(exp(z), z, exp(z * dims.inverse_temperature), exp(v * dims.inverse_temperature));
    }
    let sums = sum_over_group(own, local);
    row.log_sum = log(sums.x);
    row.sum = sums.y;
    row.student_sum = log(sums.z);
    row.teacher_sum = log(sums.w);
    return row;
}

// ln u and ln t of class c.
fn log_softmaxes(row: Row, c: u32) -> vec2f {
    let z = vec2f(logits[row.start + c] - row.largest, teacher[row.teacher_start + c] - row.teacher_largest);
    return z * dims.inverse_temperature - vec2f(row.student_sum, row.teacher_sum);
}

// loss and nll
fn row_losses(n: u32, row: Row, local: u32) -> vec2f {
    var own = 0.0;
    for (var c = local; c < dims.classes; c += WORKGROUP) {
        let logs = log_softmaxes(row, c);
        own += exp(logs.y) * (logs.y - logs.x);
    }
    let divergence = sum_over_group(vec4f(own, 0.0, 0.0, 0.0), local).x;
    let of_target = logits[row.start + targets[n]] - row.largest;
    let hard = row.log_sum - loss.kept * of_target - loss.off * row.sum;
    return vec2f(dims.hard * hard + dims.soft * divergence, row.log_sum - of_target);
}

fn write_zeros(n: u32, local: u32) {
    for (var c = local; c < dims.stride; c += WORKGROUP) {
        dlogits[n * dims.stride + c] = 0.0;
    }
}

fn write_gradient(n: u32, row: Row, upstream: f32, local: u32) {
    for (var c = local; c < dims.stride; c += WORKGROUP) {
        var gradient = 0.0;
        if c < dims.classes {
            let p = exp(logits[row.start + c] - row.largest - row.log_sum);
            let q = select(loss.off, loss.on, c == targets[n]);
            let softmaxes = exp(log_softmaxes(row, c));
            gradient = upstream * (dims.hard * (p - q) + dims.soft_slope * (softmaxes.x - softmaxes.y));
        }
        dlogits[n * dims.stride + c] = gradient;
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
    let found = row_losses(n, reduce_row(n, local), local);
    if local == 0u { losses[n] = found; }
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
    let found = row_losses(n, row, local);
    if local == 0u { losses[n] = found; }
    write_gradient(n, row, loss.dloss, local);
}
