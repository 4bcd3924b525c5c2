// The last linear layer, log-softmax, the smoothed loss and its gradient in one pass, for a small number of classes.
//
//   logits[n,c]  = b[c] + sum over i of w[c,i] * x[n,i]
//   z = logits - max(logits),  s = ln(sum over c of exp(z[c]))
//   loss[n]      = s - (on - off) * z[y] - off * sum over c of z[c],   nll[n] = s - z[y]
//   dlogits[n,c] = dloss * (exp(z[c] - s) - q[c])        q: `on` at the true class, `off` elsewhere, never stored
//
// Where the index is no class the image is ignored: its loss, nll and gradient are 0.
//
// LANES threads own one image. Each computes the logits of every LANES-th class, then all of them the same sums over
// the classes, and each stores what belongs to its own.
//
// The loops over the classes begin at a place that depends on the thread. Where a uniform alone said how often they
// run, lavapipe would specialise the shader to it, and go through the whole of it again at each dispatch: 2.5 ms.

struct Head {
    inputs: u32,        // a multiple of 4
    classes: u32,       // at most MAX_CLASSES
    stride: u32,        // elements from one row of dlogits to the next; zeros past `classes`
}
@group(0) @binding(1) var<uniform> dims: Head;
@group(0) @binding(2) var<storage, read> x: array<Quad>;              // [n, inputs / 4]
@group(0) @binding(3) var<storage, read> w: array<vec4f>;             // [classes, inputs / 4]
@group(0) @binding(4) var<storage, read> b: array<f32>;               // [classes]
@group(0) @binding(5) var<storage, read> labels: array<u32>;          // [all images]
@group(0) @binding(6) var<storage, read_write> logits: array<f32>;    // [n, classes]
@group(0) @binding(7) var<storage, read_write> losses: array<vec2f>;  // [n]: loss, nll
@group(0) @binding(8) var<storage, read_write> dlogits: array<f32>;   // [n, stride]
@group(0) @binding(9) var<storage, read> order: array<u32>;           // [images of the epoch]: which image is the n-th

const LANES = 16u;
const MAX_CLASSES = 64u;
var<workgroup> rows: array<f32, WORKGROUP / 16u * 64u>;  // [images of a workgroup, MAX_CLASSES]: their logits

@compute @workgroup_size(WORKGROUP)
fn forward_backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                    @builtin(local_invocation_index) local: u32) {
    let first = flat_group(group, groups) * (WORKGROUP / LANES);
    if first >= batch.count { return; }
    let n = first + local / LANES;
    let lane = local % LANES;
    let row = local / LANES * MAX_CLASSES;
    let quads = dims.inputs / 4u;
    // Past the batch, the last image again: it is not stored.
    let image = min(n, batch.count - 1u) * quads;
    for (var c = lane; c < dims.classes; c += LANES) {
        // Four sums side by side: a chain a quarter as long.
        var sum = vec4f(b[c], 0.0, 0.0, 0.0);
        for (var i = c * quads; i < (c + 1u) * quads; i++) {
            sum = fma(w[i], unpack(x[image + i - c * quads]), sum);
        }
        rows[row + c] = (sum.x + sum.y) + (sum.z + sum.w);
    }
    workgroupBarrier();
    if n >= batch.count { return; }

    var largest = rows[row];
    for (var i = row + 1u; i < row + dims.classes; i++) {
        largest = max(largest, rows[i]);
    }
    var exponentials = 0.0;
    var total = 0.0;
    for (var i = row; i < row + dims.classes; i++) {
        let z = rows[i] - largest;
        exponentials += exp(z);
        total += z;
    }
    let s = log(exponentials);
    let target_class = labels[order[batch.first + n]];
    let counts = target_class < dims.classes;
    if lane == 0u {
        losses[n] = vec2f();
        if counts {
            let own = rows[row + target_class] - largest;
            losses[n] = vec2f(s - loss.kept * own - loss.off * total, s - own);
        }
    }
    for (var c = lane; c < dims.classes; c += LANES) {
        let logit = rows[row + c];
        logits[n * dims.classes + c] = logit;
        var gradient = 0.0;
        if counts {
            let q = select(loss.off, loss.on, c == target_class);
            gradient = loss.dloss * (exp(logit - largest - s) - q);
        }
        dlogits[n * dims.stride + c] = gradient;
    }
    // At most three, and there are more lanes.
    if dims.classes + lane < dims.stride { dlogits[n * dims.stride + dims.classes + lane] = 0.0; }
}
