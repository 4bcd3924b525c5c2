// The gradient of all parameters, made shorter where its norm is more than `most`: torch.nn.utils.clip_grad_norm_.
//
//   norm = sqrt(sum of gradient^2);  gradient *= min(1, most / (norm + 1e-6))
//
// Two levels, of one shape every time: a thread adds every so-many-th four elements and a workgroup its threads; then
// each workgroup adds what all workgroups have, and scales its share. One thread owns four parameters at a time.

struct Clip {
    len: u32,       // a multiple of 4
    segments: u32,
    parted: u32,    // one past the last parameter that a segment holds
    groups: u32,    // workgroups of either pass
    most: f32,
}
@group(0) @binding(1) var<uniform> dims: Clip;
@group(0) @binding(2) var<storage, read_write> squares: array<f32>;     // [groups]: each one's sum of squares
@group(0) @binding(4) var<storage, read_write> step_norms: array<f32>;  // [slots]: the norm before it was clipped

// What came in parts is left in grads as a whole.
@compute @workgroup_size(WORKGROUP)
fn square(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
          @builtin(local_invocation_index) local: u32) {
    var own = 0.0;
    for (var at = flat_thread(group, groups, local); at < dims.len / 4u; at += dims.groups * WORKGROUP) {
        let g = gradient(at, segment_of(at * 4u));
        own += dot(g, g);
    }
    let total = sum_over_group(vec4f(own, 0.0, 0.0, 0.0), local).x;
    if local == 0u { squares[flat_group(group, groups)] = total; }
}

@compute @workgroup_size(WORKGROUP)
fn scale(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
         @builtin(local_invocation_index) local: u32) {
    var own = 0.0;
    for (var i = local; i < dims.groups; i += WORKGROUP) { own += squares[i]; }
    let norm = sqrt(sum_over_group(vec4f(own, 0.0, 0.0, 0.0), local).x);
    if flat_thread(group, groups, local) == 0u { step_norms[batch.slot] = norm; }
    let factor = min(1.0, dims.most / (norm + 1e-6));
    for (var at = flat_thread(group, groups, local); at < dims.len / 4u; at += dims.groups * WORKGROUP) {
        grads[at] *= factor;
    }
}
