// Adam and AdamW over every parameter at once, in PyTorch's order of operations. One thread owns one parameter.
//
//   p = keep * p;  g += l2 * p;  m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2
//   p -= step_size * m / (sqrt(v) / denominator + eps)
//
// keep, l2, step_size and denominator hold what depends on the step; the host works them out in f64.

struct Adam {
    len: u32,
    beta1: f32, one_minus_beta1: f32,  // 1 - b is rounded once, from the exact value
    beta2: f32, one_minus_beta2: f32,
    eps: f32,
}
@group(0) @binding(1) var<uniform> dims: Adam;
@group(0) @binding(2) var<storage, read_write> params: array<f32>;  // [len]
@group(0) @binding(3) var<storage, read> grads: array<f32>;         // [len]
@group(0) @binding(4) var<storage, read_write> first: array<f32>;   // [len]: m
@group(0) @binding(5) var<storage, read_write> second: array<f32>;  // [len]: v

@compute @workgroup_size(WORKGROUP)
fn update(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
          @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= dims.len { return; }
    let p = batch.keep * params[at];
    let g = grads[at] + batch.l2 * p;
    let m = dims.beta1 * first[at] + dims.one_minus_beta1 * g;
    let v = dims.beta2 * second[at] + dims.one_minus_beta2 * g * g;
    first[at] = m;
    second[at] = v;
    params[at] = p - batch.step_size * m / (sqrt(v) / batch.denominator + dims.eps);
}
