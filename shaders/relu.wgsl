// ReLU: y = max(x, 0); dx = dy where y > 0, else 0. One thread owns one element.

struct Relu {
    features: u32,  // elements of one image
}
@group(0) @binding(1) var<uniform> dims: Relu;
@group(0) @binding(2) var<storage, read> x: array<f32>;         // [n, features]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;   // [n, features]
@group(0) @binding(4) var<storage, read> y_in: array<f32>;      // y, read back
@group(0) @binding(5) var<storage, read> dy: array<f32>;        // [n, features]
@group(0) @binding(6) var<storage, read_write> dx: array<f32>;  // [n, features]

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= batch.count * dims.features { return; }
    y[at] = select(x[at], 0.0, x[at] <= 0.0);
}

@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= batch.count * dims.features { return; }
    dx[at] = select(dy[at], 0.0, y_in[at] <= 0.0);
}
