// Distillation from a teacher (Hinton, Vinyals, Dean 2015), fused with both softmaxes and its gradient. The target y is
// a class index, smoothed as in smoothed_loss.wgsl: q is the step's `on` at y and `off` elsewhere. x are the student's
// logits, v the teacher's, T the temperature.
//
//   z = x - max(x),  s = ln(sum over c of exp(z[c])),  p = exp(z - s)            the student's softmax
//   ln u = z / T - ln(sum of exp(z / T))                                        the student's at T
//   ln t = (v - max(v)) / T - ln(sum of exp((v - max(v)) / T))                  the teacher's at T
//   loss[n]      = (1 - alpha) * (s - kept * z[y] - off * sum of z) + alpha T^2 * sum of t (ln t - ln u)
//   nll[n]       = s - z[y]
//   dlogits[n,c] = dloss[n] * ((1 - alpha) (p[c] - q[c]) + alpha T (u[c] - t[c]))
//
// Neither softmax is stored. The teacher's logits are read where the data set has them, by the epoch's order. A row
// whose index is no class is ignored. common/loss.wgsl has the passes.

struct DistillationLoss {
    classes: u32,
    stride: u32,
    inverse_temperature: f32,  // these are rounded once, on the host: 1 / T,
    hard: f32,                 // 1 - alpha,
    soft: f32,                 // alpha T^2,
    soft_slope: f32,           // alpha T
}
@group(0) @binding(1) var<uniform> dims: DistillationLoss;
@group(0) @binding(7) var<storage, read> teacher: array<f32>;         // [images of the data set, classes]: logits
@group(0) @binding(8) var<storage, read> order: array<u32>;           // [images of the epoch]

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

fn counts(n: u32) -> bool { return targets[n] < dims.classes; }

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

fn row_gradient(n: u32, row: Row, c: u32) -> f32 {
    let p = exp(logits[row.start + c] - row.largest - row.log_sum);
    let q = select(loss.off, loss.on, c == targets[n]);
    let softmaxes = exp(log_softmaxes(row, c));
    return dims.hard * (p - q) + dims.soft_slope * (softmaxes.x - softmaxes.y);
}
