// SGD with momentum over every parameter at once, in PyTorch's order of operations. One thread owns four parameters;
// common/optimizer.wgsl says where their gradient comes from and what else is done.
//
//   g += l2 * p;  m = momentum * m + g;  p -= step_size * (nesterov ? g + momentum * m : m)

struct Sgd {
    len: u32,       // a multiple of 4
    decayed: u32,   // no weight decay from here on; a multiple of 4
    segments: u32,
    parted: u32,    // one past the last parameter that a segment holds
    nesterov: u32,  // 0 or 1
}
@group(0) @binding(1) var<uniform> dims: Sgd;

@compute @workgroup_size(WORKGROUP)
fn update(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
          @builtin(local_invocation_index) local: u32) {
    if flat_group(group, groups) == 0u {
        add_losses(local);
        return;
    }
    let at = flat_thread(group, groups, local) - WORKGROUP;
    if at >= dims.len / 4u { return; }
    let segment = segment_of(at * 4u);
    let p = params[at];
    let g = gradient(at, segment) + l2(at) * p;
    let m = optimizer.momentum * first[at] + g;
    first[at] = m;
    let value = p - optimizer.step_size * select(m, g + optimizer.momentum * m, dims.nesterov != 0u);
    keep(at, segment, value);
    watch(max(exponents(value), exponents(m)));
}

// Without momentum: m = g, and nothing is remembered.
@compute @workgroup_size(WORKGROUP)
fn update_plain(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                @builtin(local_invocation_index) local: u32) {
    if flat_group(group, groups) == 0u {
        add_losses(local);
        return;
    }
    let at = flat_thread(group, groups, local) - WORKGROUP;
    if at >= dims.len / 4u { return; }
    let segment = segment_of(at * 4u);
    let p = params[at];
    let value = p - optimizer.step_size * (gradient(at, segment) + l2(at) * p);
    keep(at, segment, value);
    watch(exponents(value));
}
