// Log-softmax fused with the general cross-entropy, and its gradient. A: the classes that take part; t: the target, one-hot
// at y or given; w: class weights; e u: the smoothing mass.
//
//   z = x - max over A of x,  s = ln(sum over A of exp(z)),  p = exp(z - s)
//   q[k] = (1 - e) t[k] + e u[k],   W = sum over A of w[k] t[k]      (w[y] for an index)
//   a[k] = w[k] q[k]  or  W q[k]                                     (PyTorch's weighting, or the sample's)
//   loss[n]      = s * (sum over A of a) - sum over A of a[k] z[k]
//   nll[n]       = sum over A of t[k] (s - z[k])   (unsmoothed, unweighted)
//   dlogits[n,k] = dloss[n] * (p[k] * (sum over A of a) - a[k]),  0 outside A
//
// One workgroup owns one row; its threads stride over the classes, so any number of classes fits. For an index the target is
// never stored: q differs from the table that all rows share at one class only. Distributions are read where the data set
// has them, by the epoch's order. Sums are trees of fixed shape: the same bits every time. A row that is ignored is not read:
// its losses and gradient are 0 whatever its logits are. e may be another one at each step.

struct WeightedLoss {
    classes: u32,
    first: u32,         // the first class of A: WGSL has no infinity for a maximum to start from
    by_sample: u32,     // 1: a = W q, 0: a = w q
    stride: u32,        // elements from one row of dlogits to the next; zeros past `classes`
    prior_total: f32,   // the sum of class_table[k].y, rounded once, on the host
}
@group(0) @binding(1) var<uniform> dims: WeightedLoss;
@group(0) @binding(2) var<storage, read> logits: array<f32>;             // [n, classes]
@group(0) @binding(3) var<storage, read> targets: array<u32>;            // [n]; no class of A: ignored
@group(0) @binding(4) var<storage, read> soft_targets: array<f32>;       // [images of the data set, classes]
@group(0) @binding(5) var<storage, read> order: array<u32>;              // [images of the epoch]
@group(0) @binding(6) var<storage, read> class_table: array<vec2f>;      // [classes]: w, below 0 outside A; u or w u
@group(0) @binding(7) var<storage, read_write> losses: array<vec2f>;     // [n]: loss, nll
@group(0) @binding(8) var<storage, read> dloss: array<f32>;              // [n]
@group(0) @binding(9) var<storage, read_write> dlogits: array<f32>;      // [n, stride]

struct Row {
    largest: f32,  // max over A of x
    log_sum: f32,  // s
    mass: f32,     // sum of a
    product: f32,  // sum of a z
    scale: f32,    // what multiplies the masses of all classes: W, or 1
    own: f32,      // z[y]; 0 where the target is a distribution
}

fn takes_part(c: u32) -> bool {
    return class_table[c].x >= 0.0;
}

// Whether element c of a row of dlogits is a class of A, not one outside it or a filling zero.
fn part_of_row(c: u32) -> bool {
    if c >= dims.classes { return false; }
    return takes_part(c);
}

// Whether row n's index is a class that takes part. The ignored index is none.
fn counts(n: u32) -> bool {
    let target_class = targets[n];
    if target_class >= dims.classes { return false; }
    return takes_part(target_class);
}

// max over A of x.
fn largest_logit(start: u32, local: u32) -> f32 {
    var own = logits[start + dims.first];
    for (var c = local; c < dims.classes; c += WORKGROUP) {
        if takes_part(c) { own = max(own, logits[start + c]); }
    }
    return max_over_group(own, local);
}

// What the index of row n adds to the smoothing mass at its class, before the row's scale.
fn own_mass(n: u32) -> f32 {
    return loss.kept * select(class_table[targets[n]].x, 1.0, dims.by_sample == 1u);
}

// A row whose target is an index that counts.
fn reduce_row(n: u32, local: u32) -> Row {
    let start = n * dims.classes;
    let largest = largest_logit(start, local);
    var own = vec4f();
    for (var c = local; c < dims.classes; c += WORKGROUP) {
        let of_class = class_table[c];
        if of_class.x >= 0.0 {
            let z = logits[start + c] - largest;
            own += vec4f(exp(z), of_class.y * z, 0.0, 0.0);
        }
    }
    let sums = sum_over_group(own, local);
    let scale = select(1.0, class_table[targets[n]].x, dims.by_sample == 1u);
    let kept = own_mass(n);
    let z = logits[start + targets[n]] - largest;
    let product = loss.epsilon * sums.y + kept * z;
    return Row(largest, log(sums.x), scale * (loss.epsilon * dims.prior_total + kept), scale * product, scale, z);
}

// What a class of A has of a soft target's mass, before the row's scale.
fn soft_mass(of_class: vec2f, t: f32) -> f32 {
    return loss.epsilon * of_class.y + loss.kept * t * select(of_class.x, 1.0, dims.by_sample == 1u);
}

// Where the distribution of row n starts.
fn soft_start(n: u32) -> u32 {
    return order[batch.first + n] * dims.classes;
}

// A row whose target is a distribution.
fn reduce_soft_row(n: u32, local: u32) -> Row {
    let start = n * dims.classes;
    let soft = soft_start(n);
    let largest = largest_logit(start, local);
    var own = vec4f();
    for (var c = local; c < dims.classes; c += WORKGROUP) {
        let of_class = class_table[c];
        if of_class.x >= 0.0 {
            let z = logits[start + c] - largest;
            let t = soft_targets[soft + c];
            let mass = soft_mass(of_class, t);
            own += vec4f(exp(z), mass, mass * z, of_class.x * t);
        }
    }
    let sums = sum_over_group(own, local);
    let scale = select(1.0, sums.w, dims.by_sample == 1u);
    return Row(largest, log(sums.x), scale * sums.y, scale * sums.z, scale, 0.0);
}

fn row_loss(row: Row) -> f32 {
    return row.mass * row.log_sum - row.product;
}

// loss and nll of a row whose target is an index that counts.
fn row_losses(row: Row) -> vec2f {
    return vec2f(row_loss(row), row.log_sum - row.own);
}

// loss and nll of a row whose target is a distribution.
fn soft_row_losses(n: u32, row: Row, local: u32) -> vec2f {
    let start = n * dims.classes;
    let soft = soft_start(n);
    var own = 0.0;
    for (var c = local; c < dims.classes; c += WORKGROUP) {
        if takes_part(c) { own += soft_targets[soft + c] * (row.log_sum - (logits[start + c] - row.largest)); }
    }
    return vec2f(row_loss(row), sum_over_group(vec4f(own, 0.0, 0.0, 0.0), local).x);
}

fn probability(at: u32, row: Row) -> f32 {
    return exp(logits[at] - row.largest - row.log_sum);
}

fn write_zeros(n: u32, local: u32) {
    for (var c = local; c < dims.stride; c += WORKGROUP) {
        dlogits[n * dims.stride + c] = 0.0;
    }
}

fn write_gradient(n: u32, row: Row, upstream: f32, local: u32) {
    let kept = own_mass(n);
    for (var c = local; c < dims.stride; c += WORKGROUP) {
        var gradient = 0.0;
        if part_of_row(c) {
            let mass = row.scale * (loss.epsilon * class_table[c].y + select(0.0, kept, c == targets[n]));
            gradient = upstream * (row.mass * probability(n * dims.classes + c, row) - mass);
        }
        dlogits[n * dims.stride + c] = gradient;
    }
}

fn write_soft_gradient(n: u32, row: Row, upstream: f32, local: u32) {
    let soft = soft_start(n);
    for (var c = local; c < dims.stride; c += WORKGROUP) {
        var gradient = 0.0;
        if part_of_row(c) {
            let mass = row.scale * soft_mass(class_table[c], soft_targets[soft + c]);
            gradient = upstream * (row.mass * probability(n * dims.classes + c, row) - mass);
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
    if !counts(n) {
        if local == 0u { losses[n] = vec2f(); }
        return;
    }
    let row = reduce_row(n, local);
    if local == 0u { losses[n] = row_losses(row); }
}

@compute @workgroup_size(WORKGROUP)
fn forward_soft(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                @builtin(local_invocation_index) local: u32) {
    let n = flat_group(group, groups);
    if n >= batch.count { return; }
    let row = reduce_soft_row(n, local);
    let found = soft_row_losses(n, row, local);
    if local == 0u { losses[n] = found; }
}

// The gradient alone, for any upstream gradient.
@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let n = flat_group(group, groups);
    if n >= batch.count { return; }
    if !counts(n) {
        write_zeros(n, local);
        return;
    }
    write_gradient(n, reduce_row(n, local), dloss[n], local);
}

@compute @workgroup_size(WORKGROUP)
fn backward_soft(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                 @builtin(local_invocation_index) local: u32) {
    let n = flat_group(group, groups);
    if n >= batch.count { return; }
    write_soft_gradient(n, reduce_soft_row(n, local), dloss[n], local);
}

// Both, where the upstream gradient is one number for all rows.
@compute @workgroup_size(WORKGROUP)
fn forward_backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                    @builtin(local_invocation_index) local: u32) {
    let n = flat_group(group, groups);
    if n >= batch.count { return; }
    if !counts(n) {
        if local == 0u { losses[n] = vec2f(); }
        write_zeros(n, local);
        return;
    }
    let row = reduce_row(n, local);
    if local == 0u { losses[n] = row_losses(row); }
    write_gradient(n, row, loss.dloss, local);
}

@compute @workgroup_size(WORKGROUP)
fn forward_backward_soft(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                         @builtin(local_invocation_index) local: u32) {
    let n = flat_group(group, groups);
    if n >= batch.count { return; }
    let row = reduce_soft_row(n, local);
    let found = soft_row_losses(n, row, local);
    if local == 0u { losses[n] = found; }
    write_soft_gradient(n, row, loss.dloss, local);
}
