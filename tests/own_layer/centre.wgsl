// Centre: y = x - m. In training m is the mean of all elements of the batch, and running <- 0.9 running + 0.1 m; in
// inference m is what training left.
//
//   dx = dy - mean of dy

struct Centre {
    features: u32,  // elements of one image
}
@group(0) @binding(1) var<uniform> dims: Centre;
@group(0) @binding(2) var<storage, read> x: array<f32>;              // [n, features]
@group(0) @binding(3) var<storage, read_write> running: array<f32>;  // [1]
@group(0) @binding(4) var<storage, read_write> y: array<f32>;        // [n, features]
@group(0) @binding(5) var<storage, read> dy: array<f32>;             // [n, features]
@group(0) @binding(6) var<storage, read_write> dx: array<f32>;       // [n, features]

var<workgroup> parts: array<f32, WORKGROUP>;

// The mean over the batch from each thread's part of the sum.
fn mean(part: f32, local: u32) -> f32 {
    parts[local] = part;
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i < WORKGROUP; i++) { total += parts[i]; }
    return total / f32(batch.count * dims.features);
}

// One workgroup.
@compute @workgroup_size(WORKGROUP)
fn forward_training(@builtin(local_invocation_index) local: u32) {
    let len = batch.count * dims.features;
    var part = 0.0;
    for (var at = local; at < len; at += WORKGROUP) { part += x[at]; }
    let m = mean(part, local);
    for (var at = local; at < len; at += WORKGROUP) { y[at] = x[at] - m; }
    if local == 0u { running[0] = 0.9 * running[0] + 0.1 * m; }
}

@compute @workgroup_size(WORKGROUP)
fn forward_inference(@builtin(local_invocation_index) local: u32) {
    for (var at = local; at < batch.count * dims.features; at += WORKGROUP) { y[at] = x[at] - running[0]; }
}

@compute @workgroup_size(WORKGROUP)
fn backward_input(@builtin(local_invocation_index) local: u32) {
    let len = batch.count * dims.features;
    var part = 0.0;
    for (var at = local; at < len; at += WORKGROUP) { part += dy[at]; }
    let m = mean(part, local);
    for (var at = local; at < len; at += WORKGROUP) { dx[at] = dy[at] - m; }
}
