// MaxPool2d: floor rule, the first maximum of a window (row by row) wins a tie, and the first NaN wins all. The padding
// is at most half the window, so every window has an element of the image.
//
//   y[n,c,i,j]      = max over p,q of x[n, c, i*s+p-pad, j*s+q-pad], as far as that is in the image
//   argmax[n,c,i,j] = h * w_in + w of the first element that reaches it
//   dx[n,c,h,w]     = sum over the windows (i,j) whose argmax is (h,w) of dy[n,c,i,j]
//
// Backward, a thread owns one element of dx and looks at the windows that cover it: no atomics, one order of summing.

struct MaxPool2d {
    channels: u32, h_in: u32, w_in: u32,
    h_out: u32, w_out: u32,
    kernel_h: u32, kernel_w: u32,
    stride_h: u32, stride_w: u32,
    padding_h: u32, padding_w: u32,
}
@group(0) @binding(1) var<uniform> dims: MaxPool2d;
@group(0) @binding(2) var<storage, read> x: array<f32>;             // [n, channels, h_in, w_in]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;       // [n, channels, h_out, w_out]
@group(0) @binding(4) var<storage, read_write> argmax: array<u32>;  // as y
@group(0) @binding(5) var<storage, read> argmax_in: array<u32>;     // argmax, read back
@group(0) @binding(6) var<storage, read> dy: array<f32>;            // as y
@group(0) @binding(7) var<storage, read_write> dx: array<f32>;      // as x

// By the bits, because a comparison of floats may assume that there is no NaN.
fn is_nan(v: f32) -> bool { return (bitcast<u32>(v) & 0x7fffffffu) > 0x7f800000u; }

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= batch.count * dims.channels * dims.h_out * dims.w_out { return; }
    let j = at % dims.w_out;
    let i = at / dims.w_out % dims.h_out;
    let plane = at / (dims.w_out * dims.h_out) * dims.h_in * dims.w_in;

    let top = max(i * dims.stride_h, dims.padding_h) - dims.padding_h;
    let left = max(j * dims.stride_w, dims.padding_w) - dims.padding_w;
    let bottom = min(i * dims.stride_h + dims.kernel_h - dims.padding_h, dims.h_in);
    let right = min(j * dims.stride_w + dims.kernel_w - dims.padding_w, dims.w_in);
    var best = top * dims.w_in + left;
    var largest = x[plane + best];
    for (var h = top; h < bottom; h++) {
        for (var w = left; w < right; w++) {
            let here = h * dims.w_in + w;
            let value = x[plane + here];
            if !is_nan(largest) && (is_nan(value) || value > largest) {
                largest = value;
                best = here;
            }
        }
    }
    y[at] = largest;
    argmax[at] = best;
}

@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= batch.count * dims.channels * dims.h_in * dims.w_in { return; }
    let w = at % dims.w_in;
    let h = at / dims.w_in % dims.h_in;
    let plane = at / (dims.w_in * dims.h_in) * dims.h_out * dims.w_out;

    // Windows i with i * stride <= h + padding < i * stride + kernel.
    let row = h + dims.padding_h;
    let column = w + dims.padding_w;
    let first_i = (max(row + dims.stride_h, dims.kernel_h) - dims.kernel_h) / dims.stride_h;
    let first_j = (max(column + dims.stride_w, dims.kernel_w) - dims.kernel_w) / dims.stride_w;
    let end_i = min(row / dims.stride_h + 1u, dims.h_out);
    let end_j = min(column / dims.stride_w + 1u, dims.w_out);
    var sum = 0.0;
    for (var i = first_i; i < end_i; i++) {
        for (var j = first_j; j < end_j; j++) {
            let window = plane + i * dims.w_out + j;
            if argmax_in[window] == h * dims.w_in + w {
                sum += dy[window];
            }
        }
    }
    dx[at] = sum;
}
