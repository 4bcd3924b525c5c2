// Linear (fully connected), the plain form: one thread owns one element of the result and sums its terms in order.
//
//   y[n,o]  = b[o] + sum over i of w[o,i] * x[n,i]
//   dx[n,i] = sum over o of w[o,i] * dy[n,o]
//   dw[o,i] = sum over n of dy[n,o] * x[n,i]
//   db[o]   = sum over n of dy[n,o]

struct Linear {
    inputs: u32,
    outputs: u32,
}
@group(0) @binding(1) var<uniform> dims: Linear;
@group(0) @binding(2) var<storage, read> x: array<f32>;         // [n, inputs]
@group(0) @binding(3) var<storage, read> w: array<f32>;         // [outputs, inputs]
@group(0) @binding(4) var<storage, read> b: array<f32>;         // [outputs]
@group(0) @binding(5) var<storage, read_write> y: array<f32>;   // [n, outputs]
@group(0) @binding(6) var<storage, read> dy: array<f32>;        // as y
@group(0) @binding(7) var<storage, read_write> dx: array<f32>;  // as x
@group(0) @binding(8) var<storage, read_write> dw: array<f32>;  // as w
@group(0) @binding(9) var<storage, read_write> db: array<f32>;  // as b

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= batch.count * dims.outputs { return; }
    let n = at / dims.outputs;
    let o = at % dims.outputs;
    var sum = b[o];
    for (var i = 0u; i < dims.inputs; i++) {
        sum += w[o * dims.inputs + i] * x[n * dims.inputs + i];
    }
    y[at] = sum;
}

@compute @workgroup_size(WORKGROUP)
fn backward_input(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                  @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= batch.count * dims.inputs { return; }
    let n = at / dims.inputs;
    let i = at % dims.inputs;
    var sum = 0.0;
    for (var o = 0u; o < dims.outputs; o++) {
        sum += w[o * dims.inputs + i] * dy[n * dims.outputs + o];
    }
    dx[at] = sum;
}

@compute @workgroup_size(WORKGROUP)
fn backward_weight(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                   @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= dims.outputs * dims.inputs { return; }
    let o = at / dims.inputs;
    let i = at % dims.inputs;
    var sum = 0.0;
    for (var n = 0u; n < batch.count; n++) {
        sum += dy[n * dims.outputs + o] * x[n * dims.inputs + i];
    }
    dw[at] = sum;
}

@compute @workgroup_size(WORKGROUP)
fn backward_bias(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                 @builtin(local_invocation_index) local: u32) {
    let o = flat_thread(group, groups, local);
    if o >= dims.outputs { return; }
    var sum = 0.0;
    for (var n = 0u; n < batch.count; n++) {
        sum += dy[n * dims.outputs + o];
    }
    db[o] = sum;
}
