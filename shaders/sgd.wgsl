// SGD with momentum over every parameter at once, in PyTorch's order of operations. One thread owns one parameter.
//
//   g += l2 * p;  m = momentum * m + g;  p -= step_size * (nesterov ? g + momentum * m : m)

struct Sgd {
    len: u32,
    momentum: f32,
    nesterov: u32,  // 0 or 1
}
@group(0) @binding(1) var<uniform> dims: Sgd;
@group(0) @binding(2) var<storage, read_write> params: array<f32>;  // [len]
@group(0) @binding(3) var<storage, read> grads: array<f32>;         // [len]
@group(0) @binding(4) var<storage, read_write> first: array<f32>;   // [len]: m

@compute @workgroup_size(WORKGROUP)
fn update(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
          @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= dims.len { return; }
    let g = grads[at] + batch.l2 * params[at];
    let m = dims.momentum * first[at] + g;
    first[at] = m;
    params[at] -= batch.step_size * select(m, g + dims.momentum * m, dims.nesterov != 0u);
}
