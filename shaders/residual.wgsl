// The addition at the end of a residual block: y = x + skip. One thread owns one element. Its gradient is dy for both
// inputs; where a tensor has two readers, the same kernel adds their gradients.

struct Residual {
    features: u32,  // elements of one image
}
@group(0) @binding(1) var<uniform> dims: Residual;
@group(0) @binding(2) var<storage, read> x: array<f32>;         // [n, features]
@group(0) @binding(3) var<storage, read> skip: array<f32>;      // [n, features]
@group(0) @binding(4) var<storage, read_write> y: array<f32>;   // [n, features]
@group(0) @binding(5) var<storage, read> dy: array<f32>;        // [n, features]
@group(0) @binding(6) var<storage, read_write> dx: array<f32>;  // [n, features]

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= batch.count * dims.features { return; }
    y[at] = x[at] + skip[at];
}

// Only where a plan does not let the readers of dx read dy.
@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= batch.count * dims.features { return; }
    dx[at] = dy[at];
}
