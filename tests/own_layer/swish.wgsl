// Swish: y = x s, s = 1 / (1 + exp(-beta x)), with a learned beta.
//
//   dx    = dy (s + beta x s (1 - s))
//   dbeta = sum over all elements of dy x^2 s (1 - s)

struct Swish {
    features: u32,  // elements of one image
}
@group(0) @binding(1) var<uniform> dims: Swish;
@group(0) @binding(2) var<storage, read> x: array<f32>;            // [n, features]
@group(0) @binding(3) var<storage, read> beta: array<f32>;         // [1]
@group(0) @binding(4) var<storage, read_write> y: array<f32>;      // [n, features]
@group(0) @binding(5) var<storage, read> dy: array<f32>;           // [n, features]
@group(0) @binding(6) var<storage, read_write> dx: array<f32>;     // [n, features]
@group(0) @binding(7) var<storage, read_write> dbeta: array<f32>;  // [1]

fn sigmoid(v: f32) -> f32 { return 1.0 / (1.0 + exp(-v)); }

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= batch.count * dims.features { return; }
    y[at] = x[at] * sigmoid(beta[0] * x[at]);
}

@compute @workgroup_size(WORKGROUP)
fn backward_input(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                  @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= batch.count * dims.features { return; }
    let s = sigmoid(beta[0] * x[at]);
    dx[at] = dy[at] * (s + beta[0] * x[at] * s * (1.0 - s));
}

var<workgroup> parts: array<f32, WORKGROUP>;

// One workgroup: each thread adds up every 64th element, the first adds the threads' parts.
@compute @workgroup_size(WORKGROUP)
fn backward_beta(@builtin(local_invocation_index) local: u32) {
    var sum = 0.0;
    for (var at = local; at < batch.count * dims.features; at += WORKGROUP) {
        let s = sigmoid(beta[0] * x[at]);
        sum += dy[at] * x[at] * x[at] * s * (1.0 - s);
    }
    parts[local] = sum;
    workgroupBarrier();
    if local == 0u {
        var total = 0.0;
        for (var i = 0u; i < WORKGROUP; i++) { total += parts[i]; }
        dbeta[0] = total;
    }
}
