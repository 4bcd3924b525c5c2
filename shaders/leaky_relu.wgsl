// LeakyReLU: y = x where x > 0, else slope * x; dx = dy where x > 0, else slope * dy. One thread owns one element.

struct LeakyRelu {
    features: u32,  // elements of one image
    slope: f32,
}
@group(0) @binding(1) var<uniform> dims: LeakyRelu;
@group(0) @binding(2) var<storage, read> x: array<f32>;         // [n, features]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;   // [n, features]
@group(0) @binding(4) var<storage, read> dy: array<f32>;        // [n, features]
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;  // [n, features]

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= batch.count * dims.features { return; }
    y[at] = select(dims.slope * x[at], x[at], x[at] > 0.0);
}

@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= batch.count * dims.features { return; }
    dx[at] = select(dims.slope * dy[at], dy[at], x[at] > 0.0);
}
