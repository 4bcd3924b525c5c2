// Conv2d, the plain form: one thread owns one element of the result and sums its terms in order.
//
//   y[n,o,i,j]  = b[o] + sum over c,p,q of  w[o,c,p,q] * x[n, c, i*s+d*p-pad, j*s+d*q-pad]
//   dx[n,c,h,w] = sum over o,p,q of          w[o,c,p,q] * dy[n, o, (h+pad-d*p)/s, (w+pad-d*q)/s]   where they are whole
//   dw[o,c,p,q] = sum over n,i,j of          dy[n,o,i,j] * x[n, c, i*s+d*p-pad, j*s+d*q-pad]
//   db[o]       = sum over n,i,j of          dy[n,o,i,j]
//
// s is the stride, d the dilation. The channels are in groups of c_in_of and c_out_of: an output channel sees the input
// channels of its own group alone, and w counts those from the group's first.

struct Conv2d {
    c_in: u32, h_in: u32, w_in: u32,
    c_out: u32, h_out: u32, w_out: u32,
    kernel_h: u32, kernel_w: u32,
    stride_h: u32, stride_w: u32,
    padding_h: u32, padding_w: u32,
    dilation_h: u32, dilation_w: u32,
    c_in_of: u32, c_out_of: u32,
}
@group(0) @binding(1) var<uniform> dims: Conv2d;
@group(0) @binding(2) var<storage, read> x: array<f32>;          // [n, c_in, h_in, w_in]
@group(0) @binding(3) var<storage, read> w: array<f32>;          // [c_out, c_in_of, kernel_h, kernel_w]
@group(0) @binding(4) var<storage, read> b: array<f32>;          // [c_out]
@group(0) @binding(5) var<storage, read_write> y: array<f32>;    // [n, c_out, h_out, w_out]
@group(0) @binding(6) var<storage, read> dy: array<f32>;         // as y
@group(0) @binding(7) var<storage, read_write> dx: array<f32>;   // as x
@group(0) @binding(8) var<storage, read_write> dw: array<f32>;   // as w
@group(0) @binding(9) var<storage, read_write> db: array<f32>;   // as b

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= batch.count * dims.c_out * dims.h_out * dims.w_out { return; }
    let j = at % dims.w_out;
    let i = at / dims.w_out % dims.h_out;
    let o = at / (dims.w_out * dims.h_out) % dims.c_out;
    let n = at / (dims.w_out * dims.h_out * dims.c_out);

    let first = o / dims.c_out_of * dims.c_in_of;
    var sum = b[o];
    for (var c = 0u; c < dims.c_in_of; c++) {
        for (var p = 0u; p < dims.kernel_h; p++) {
            // Above the image this wraps to a large number: one comparison covers both edges.
            let h = i * dims.stride_h + p * dims.dilation_h - dims.padding_h;
            if h >= dims.h_in { continue; }
            for (var q = 0u; q < dims.kernel_w; q++) {
                let v = j * dims.stride_w + q * dims.dilation_w - dims.padding_w;
                if v >= dims.w_in { continue; }
                sum += w[((o * dims.c_in_of + c) * dims.kernel_h + p) * dims.kernel_w + q]
                    * x[((n * dims.c_in + first + c) * dims.h_in + h) * dims.w_in + v];
            }
        }
    }
    y[at] = sum;
}

@compute @workgroup_size(WORKGROUP)
fn backward_input(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                  @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= batch.count * dims.c_in * dims.h_in * dims.w_in { return; }
    let v = at % dims.w_in;
    let h = at / dims.w_in % dims.h_in;
    let c = at / (dims.w_in * dims.h_in) % dims.c_in;
    let n = at / (dims.w_in * dims.h_in * dims.c_in);

    let first = c / dims.c_in_of * dims.c_out_of;
    var sum = 0.0;
    for (var o = first; o < first + dims.c_out_of; o++) {
        for (var p = 0u; p < dims.kernel_h; p++) {
            // The output row i that reaches input row h through tap p: i * stride + p * dilation = h + padding.
            let down = p * dims.dilation_h;
            let row = h + dims.padding_h - down;
            if down > h + dims.padding_h || row % dims.stride_h != 0u || row / dims.stride_h >= dims.h_out { continue; }
            for (var q = 0u; q < dims.kernel_w; q++) {
                let right = q * dims.dilation_w;
                let column = v + dims.padding_w - right;
                if right > v + dims.padding_w || column % dims.stride_w != 0u || column / dims.stride_w >= dims.w_out {
                    continue;
                }
                let out_row = (n * dims.c_out + o) * dims.h_out + row / dims.stride_h;
                sum += w[((o * dims.c_in_of + c % dims.c_in_of) * dims.kernel_h + p) * dims.kernel_w + q]
                    * dy[out_row * dims.w_out + column / dims.stride_w];
            }
        }
    }
    dx[at] = sum;
}

@compute @workgroup_size(WORKGROUP)
fn backward_weight(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                   @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    let fan_in = dims.c_in_of * dims.kernel_h * dims.kernel_w;
    if at >= dims.c_out * fan_in { return; }
    let q = at % dims.kernel_w;
    let p = at / dims.kernel_w % dims.kernel_h;
    let o = at / fan_in;
    let c = o / dims.c_out_of * dims.c_in_of + at / (dims.kernel_w * dims.kernel_h) % dims.c_in_of;

    // One sum for each image, and a sum of those: the rounding error grows with the image, not with the batch.
    var sum = 0.0;
    for (var n = 0u; n < batch.count; n++) {
        var of_image = 0.0;
        for (var i = 0u; i < dims.h_out; i++) {
            let h = i * dims.stride_h + p * dims.dilation_h - dims.padding_h;
            if h >= dims.h_in { continue; }
            for (var j = 0u; j < dims.w_out; j++) {
                let v = j * dims.stride_w + q * dims.dilation_w - dims.padding_w;
                if v >= dims.w_in { continue; }
                of_image += dy[((n * dims.c_out + o) * dims.h_out + i) * dims.w_out + j]
                    * x[((n * dims.c_in + c) * dims.h_in + h) * dims.w_in + v];
            }
        }
        sum += of_image;
    }
    dw[at] = sum;
}

@compute @workgroup_size(WORKGROUP)
fn backward_bias(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                 @builtin(local_invocation_index) local: u32) {
    let o = flat_thread(group, groups, local);
    if o >= dims.c_out { return; }
    let positions = dims.h_out * dims.w_out;
    var sum = 0.0;
    for (var n = 0u; n < batch.count; n++) {
        var of_image = 0.0;
        for (var k = 0u; k < positions; k++) {
            of_image += dy[(n * dims.c_out + o) * positions + k];
        }
        sum += of_image;
    }
    db[o] = sum;
}
