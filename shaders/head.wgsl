// The last linear layer, log-softmax, the smoothed loss and its gradient in one pass, for a small number of classes.
//
//   logits[n,c]  = b[c] + sum over i of w[c,i] * x[n,i]
//   z = logits - max(logits),  s = ln(sum over c of exp(z[c]))
//   loss[n]      = s - (on - off) * z[y] - off * sum over c of z[c]
//   dlogits[n,c] = dloss * (exp(z[c] - s) - q[c])        q: `on` at the true class, `off` elsewhere, never stored
//
// One thread owns one image: its logits go to memory once and are read back by the thread that wrote them.

struct Head {
    inputs: u32,        // a multiple of 4
    classes: u32,
    stride: u32,        // elements from one row of dlogits to the next; zeros past `classes`
    on: f32,
    off: f32,
    on_minus_off: f32,  // rounded once, on the host
}
@group(0) @binding(1) var<uniform> dims: Head;
@group(0) @binding(2) var<storage, read> x: array<vec4f>;             // [n, inputs / 4]
@group(0) @binding(3) var<storage, read> w: array<vec4f>;             // [classes, inputs / 4]
@group(0) @binding(4) var<storage, read> b: array<f32>;               // [classes]
@group(0) @binding(5) var<storage, read> targets: array<u32>;         // [n]
@group(0) @binding(6) var<storage, read_write> logits: array<f32>;    // [n, classes]
@group(0) @binding(7) var<storage, read_write> losses: array<f32>;    // [n]
@group(0) @binding(8) var<storage, read_write> dlogits: array<f32>;   // [n, stride]

@compute @workgroup_size(WORKGROUP)
fn forward_backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                    @builtin(local_invocation_index) local: u32) {
    let n = flat_thread(group, groups, local);
    if n >= batch.count { return; }
    let quads = dims.inputs / 4u;
    let row = n * dims.classes;
    var largest = 0.0;
    for (var c = 0u; c < dims.classes; c++) {
        // Four sums side by side: a chain a quarter as long.
        var sum = vec4f(b[c], 0.0, 0.0, 0.0);
        for (var i = 0u; i < quads; i++) {
            sum = fma(w[c * quads + i], x[n * quads + i], sum);
        }
        let logit = (sum.x + sum.y) + (sum.z + sum.w);
        logits[row + c] = logit;
        largest = select(max(largest, logit), logit, c == 0u);
    }
    var exponentials = 0.0;
    var total = 0.0;
    for (var c = 0u; c < dims.classes; c++) {
        let z = logits[row + c] - largest;
        exponentials += exp(z);
        total += z;
    }
    let s = log(exponentials);
    let own = logits[row + targets[n]] - largest;
    losses[n] = s - dims.on_minus_off * own - dims.off * total;
    for (var c = 0u; c < dims.classes; c++) {
        let p = exp(logits[row + c] - largest - s);
        dlogits[n * dims.stride + c] = batch.dloss * (p - select(dims.off, dims.on, c == targets[n]));
    }
    for (var c = dims.classes; c < dims.stride; c++) {
        dlogits[n * dims.stride + c] = 0.0;
    }
}
