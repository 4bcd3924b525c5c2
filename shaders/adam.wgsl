// Adam and AdamW over every parameter at once, in PyTorch's order of operations. One thread owns four parameters;
// common/optimizer.wgsl says where their gradient comes from and what else is done.
//
//   p = keep * p;  g += l2 * p;  m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2
//   p -= step_size * m / (sqrt(v) / denominator + eps)
//
// keep, l2, step_size, denominator and b1 hold what depends on the step; the host works them out in f64.

struct Adam {
    begin: u32,     // the first that is updated; a multiple of 4
    len: u32,       // one past the last; a multiple of 4
    decayed: u32,   // no weight decay from here on; a multiple of 4
    segments: u32,
    parted: u32,    // one past the last parameter that a segment holds
    beta2: f32, one_minus_beta2: f32,  // 1 - b is rounded once, from the exact value
    eps: f32,
}
@group(0) @binding(1) var<uniform> dims: Adam;

@compute @workgroup_size(WORKGROUP)
fn update(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
          @builtin(local_invocation_index) local: u32) {
    if flat_group(group, groups) == 0u {
        add_losses(local);
        return;
    }
    let at = dims.begin / 4u + flat_thread(group, groups, local) - WORKGROUP;
    if at >= dims.len / 4u { return; }
    let segment = segment_of(at * 4u);
    let p = factor(at) * params[at];
    let g = gradient(at, segment) + l2(at) * p;
    let m = optimizer.momentum * first[at] + optimizer.rest * g;
    let v = dims.beta2 * second[at] + dims.one_minus_beta2 * g * g;
    first[at] = m;
    second[at] = v;
    let value = p - optimizer.step_size * m / (sqrt(v) / optimizer.denominator + dims.eps);
    keep(at, segment, value);
    watch(max(exponents(value), max(exponents(m), exponents(v))));
}
