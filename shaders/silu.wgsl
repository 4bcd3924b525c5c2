// SiLU: y = x s(x); dx = dy s(x) (1 + x (1 - s(x))); s is the logistic function. One thread owns one element.

struct Silu {
    features: u32,  // elements of one image
}
@group(0) @binding(1) var<uniform> dims: Silu;
@group(0) @binding(2) var<storage, read> x: array<f32>;         // [n, features]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;   // [n, features]
@group(0) @binding(4) var<storage, read> dy: array<f32>;        // [n, features]
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;  // [n, features]

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= batch.count * dims.features { return; }
    y[at] = x[at] * sigmoid(x[at]).x;
}

@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= batch.count * dims.features { return; }
    let s = sigmoid(x[at]);
    dx[at] = dy[at] * (s.x * (1.0 + x[at] * s.y));
}
