// The average of each channel's plane: y[n,c] = 1/k * sum over the k positions of x[n,c,..]; dx[n,c,..] = dy[n,c] / k.
// One thread owns one element of the result.

struct GlobalAvgPool2d {
    channels: u32,
    plane: u32,  // k
    share: f32,  // 1/k
}
@group(0) @binding(1) var<uniform> dims: GlobalAvgPool2d;
@group(0) @binding(2) var<storage, read> x: array<f32>;         // [n, channels, plane]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;   // [n, channels]
@group(0) @binding(4) var<storage, read> dy: array<f32>;        // as y
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;  // as x
@group(0) @binding(6) var<storage, read> x_last: array<vec4f>;         // [n, plane, channels / 4]: x, channels last
@group(0) @binding(7) var<storage, read_write> dx_last: array<vec4f>;  // as x_last

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= batch.count * dims.channels { return; }
    var sum = 0.0;
    for (var i = 0u; i < dims.plane; i++) {
        sum += x[at * dims.plane + i];
    }
    y[at] = sum * dims.share;
}

@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= batch.count * dims.channels * dims.plane { return; }
    dx[at] = dy[at / dims.plane] * dims.share;
}

// The same where x has its channels last. One thread owns four channels of an image.
@compute @workgroup_size(WORKGROUP)
fn forward_last(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    let blocks = dims.channels / 4u;
    if at >= batch.count * blocks { return; }
    var sum = vec4f();
    for (var i = 0u; i < dims.plane; i++) {
        sum += x_last[(at / blocks * dims.plane + i) * blocks + at % blocks];
    }
    let mean = sum * dims.share;
    y[at * 4u] = mean.x;
    y[at * 4u + 1u] = mean.y;
    y[at * 4u + 2u] = mean.z;
    y[at * 4u + 3u] = mean.w;
}

@compute @workgroup_size(WORKGROUP)
fn backward_last(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                 @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    let blocks = dims.channels / 4u;
    if at >= batch.count * blocks { return; }
    let value = vec4f(dy[at * 4u], dy[at * 4u + 1u], dy[at * 4u + 2u], dy[at * 4u + 3u]) * dims.share;
    for (var i = 0u; i < dims.plane; i++) {
        dx_last[(at / blocks * dims.plane + i) * blocks + at % blocks] = value;
    }
}
