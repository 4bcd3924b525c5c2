// What the device can do at most, measured: not part of training.
//
//   copy: y[i] = x[i]                                    memory bandwidth
//   fma:  16 independent chains of fused multiply-adds   arithmetic, ROUNDS * 16 * 4 of them a thread

struct Ceiling {
    len: u32,     // vectors
    factor: f32,  // not known to the compiler, so that it cannot shorten the chains
}
@group(0) @binding(1) var<uniform> dims: Ceiling;
@group(0) @binding(2) var<storage, read> x: array<vec4f>;        // [len]
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;  // [len]

const ROUNDS = 64u;

@compute @workgroup_size(WORKGROUP)
fn copy(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= dims.len { return; }
    y[at] = x[at];
}

@compute @workgroup_size(WORKGROUP)
fn multiply_add(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= dims.len { return; }
    let f = vec4f(dims.factor);
    let start = vec4f(f32(at));
    var a = start; var b = start + 1.0; var c = start + 2.0; var d = start + 3.0;
    for (var i = 0u; i < ROUNDS; i++) {
        a = fma(a, f, b); b = fma(b, f, c); c = fma(c, f, d); d = fma(d, f, a);
        a = fma(a, f, b); b = fma(b, f, c); c = fma(c, f, d); d = fma(d, f, a);
        a = fma(a, f, b); b = fma(b, f, c); c = fma(c, f, d); d = fma(d, f, a);
        a = fma(a, f, b); b = fma(b, f, c); c = fma(c, f, d); d = fma(d, f, a);
    }
    y[at] = a + b + c + d;
}
