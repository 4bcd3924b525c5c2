// The moving average of the parameters, or of the layers' buffers, after an update. One thread owns four numbers.
//
//   average = decay * average + (1 - decay) * value

struct Ema {
    len: u32,    // a multiple of 4
    decay: f32,
    rest: f32,   // 1 - decay, rounded once, from the exact value
}
@group(0) @binding(1) var<uniform> dims: Ema;
@group(0) @binding(2) var<storage, read> values: array<vec4f>;          // [len / 4]
@group(0) @binding(3) var<storage, read_write> averages: array<vec4f>;  // [len / 4]

@compute @workgroup_size(WORKGROUP)
fn update(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
          @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= dims.len / 4u { return; }
    averages[at] = dims.decay * averages[at] + dims.rest * values[at];
}
