// AvgPool2d without padding: floor rule.
//
//   y[n,c,i,j]  = 1/k * sum over p,q of x[n, c, i*s+p, j*s+q]                  k elements in a window
//   dx[n,c,h,w] = 1/k * sum over the windows (i,j) that cover (h,w) of dy[n,c,i,j]
//
// One thread owns one element of the result: no atomics, one order of summing.

struct AvgPool2d {
    channels: u32, h_in: u32, w_in: u32,
    h_out: u32, w_out: u32,
    kernel_h: u32, kernel_w: u32,
    stride_h: u32, stride_w: u32,
    share: f32,  // 1/k
}
@group(0) @binding(1) var<uniform> dims: AvgPool2d;
@group(0) @binding(2) var<storage, read> x: array<f32>;         // [n, channels, h_in, w_in]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;   // [n, channels, h_out, w_out]
@group(0) @binding(4) var<storage, read> dy: array<f32>;        // as y
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;  // as x

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= batch.count * dims.channels * dims.h_out * dims.w_out { return; }
    let j = at % dims.w_out;
    let i = at / dims.w_out % dims.h_out;
    let plane = at / (dims.w_out * dims.h_out) * dims.h_in * dims.w_in;
    var sum = 0.0;
    for (var p = 0u; p < dims.kernel_h; p++) {
        for (var q = 0u; q < dims.kernel_w; q++) {
            sum += x[plane + (i * dims.stride_h + p) * dims.w_in + j * dims.stride_w + q];
        }
    }
    y[at] = sum * dims.share;
}

@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= batch.count * dims.channels * dims.h_in * dims.w_in { return; }
    let w = at % dims.w_in;
    let h = at / dims.w_in % dims.h_in;
    let plane = at / (dims.w_in * dims.h_in) * dims.h_out * dims.w_out;

    // Windows i with i * stride <= h < i * stride + kernel.
    let first_i = (max(h + dims.stride_h, dims.kernel_h) - dims.kernel_h) / dims.stride_h;
    let first_j = (max(w + dims.stride_w, dims.kernel_w) - dims.kernel_w) / dims.stride_w;
    let end_i = min(h / dims.stride_h + 1u, dims.h_out);
    let end_j = min(w / dims.stride_w + 1u, dims.w_out);
    var sum = 0.0;
    for (var i = first_i; i < end_i; i++) {
        for (var j = first_j; j < end_j; j++) {
            sum += dy[plane + i * dims.w_out + j];
        }
    }
    dx[at] = sum * dims.share;
}
