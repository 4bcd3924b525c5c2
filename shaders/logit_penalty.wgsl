// Cross-entropy with a penalty on how far the largest logit stands above the others, fused with log-softmax and the
// gradient: MaxSup (Zhou et al. 2025), by a, and the margin of MbLS (Liu et al. 2022), by b and m. The target y is a
// class index.
//
//   z = x - max(x),  s = ln(sum over c of exp(z[c])),  C classes, a = the step's epsilon, b = lambda / C
//   loss[n]      = s - z[y] - a/C sum over c of z[c] + b sum over c of max(0, -z[c] - m),   nll[n] = s - z[y]
//   dlogits[n,c] = dloss[n] * (exp(z[c] - s) - [c = y] + a ([z[c] = 0] / t - 1/C) + b ([z[c] = 0] k / t - [-z[c] > m]))
//
// with t the classes that are the largest, which share its gradient, and k those below it by more than m. A row whose
// index is no class is ignored. common/loss.wgsl has the passes.

struct LogitPenalty {
    classes: u32,
    stride: u32,
    each: f32,    // b
    margin: f32,  // m
}
@group(0) @binding(1) var<uniform> dims: LogitPenalty;

struct Row {
    largest: f32,  // max(x)
    log_sum: f32,  // s
    sum: f32,      // sum of z
    beyond: f32,   // sum of max(0, -z - m)
    of_largest: f32,  // (a + b k) / t
}

fn counts(n: u32) -> bool { return targets[n] < dims.classes; }

fn reduce_row(n: u32, local: u32) -> Row {
    let start = n * dims.classes;
    let largest = largest_of_row(start, local);
    var own = vec3f();
    var own_counts = vec2f();
    for (var c = local; c < dims.classes; c += WORKGROUP) {
        let z = logits[start + c] - largest;
        own += vec3f(exp(z), z, max(0.0, -z - dims.margin));
        own_counts += select(vec2f(), vec2f(1.0), vec2(z == 0.0, -z > dims.margin));
    }
    let sums = sum_over_group(vec4f(own, 0.0), local);
    let counted = sum_over_group(vec4f(own_counts, 0.0, 0.0), local);
    let of_largest = (loss.epsilon + dims.each * counted.y) / counted.x;
    return Row(largest, log(sums.x), sums.y, sums.z, of_largest);
}

fn row_losses(n: u32, row: Row, local: u32) -> vec2f {
    let nll = row.log_sum - (logits[n * dims.classes + targets[n]] - row.largest);
    return vec2f(nll - loss.epsilon / f32(dims.classes) * row.sum + dims.each * row.beyond, nll);
}

fn row_gradient(n: u32, row: Row, c: u32) -> f32 {
    let z = logits[n * dims.classes + c] - row.largest;
    let penalty = select(0.0, row.of_largest, z == 0.0) - select(0.0, dims.each, -z > dims.margin);
    return exp(z - row.log_sum) - select(0.0, 1.0, c == targets[n]) + penalty - loss.epsilon / f32(dims.classes);
}
