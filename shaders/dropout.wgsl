// Dropout: in training y = x / (1 - p) where a random number says so, else 0; dx = dy / (1 - p) there, else 0. In
// inference y = x. The random number is a function of seed, update, layer and element: both passes draw the same. One
// thread owns one element.

struct Dropout {
    features: u32,   // elements of one image
    layer: u32,      // the layer's place in its network
    threshold: u32,  // p * 2^32: random numbers below it drop
    scale: f32,      // 1 / (1 - p)
}
@group(0) @binding(1) var<uniform> dims: Dropout;
@group(0) @binding(2) var<storage, read> x: array<f32>;         // [n, features]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;   // [n, features]

@compute @workgroup_size(WORKGROUP)
fn drop(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= batch.count * dims.features { return; }
    // Of all elements of the update.
    let element = part.before * dims.features + at;
    y[at] = select(x[at] * dims.scale, 0.0, layer_random(dims.layer, element) < dims.threshold);
}

@compute @workgroup_size(WORKGROUP)
fn keep(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= batch.count * dims.features { return; }
    y[at] = x[at];
}
