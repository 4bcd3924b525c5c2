// Log-softmax fused with the general cross-entropy, and its gradient. A: the classes that take part; t: the target,
// one-hot at y or given; w: class weights; e u: the smoothing mass.
//
//   z = x - max over A of x,  s = ln(sum over A of exp(z)),  p = exp(z - s)
//   q[k] = (1 - e) t[k] + e u[k],   W = sum over A of w[k] t[k]      (w[y] for an index)
//   a[k] = w[k] q[k]  or  W q[k]                                     (PyTorch's weighting, or the sample's)
//   loss[n]      = s * (sum over A of a) - sum over A of a[k] z[k]
//   nll[n]       = sum over A of t[k] (s - z[k])   (unsmoothed, unweighted)
//   dlogits[n,k] = dloss[n] * (p[k] * (sum over A of a) - a[k]),  0 outside A
//
// The target is an index: weighted_loss_soft.wgsl takes distributions. It is never stored: q differs from the table
// that all rows share at one class only. A row whose index is no class of A is ignored. e may be another one at each
// step. common/loss.wgsl has the passes.

// Whether row n's index is a class that takes part. The ignored index is none.
fn counts(n: u32) -> bool {
    let target_class = targets[n];
    if target_class >= dims.classes { return false; }
    return takes_part(target_class);
}

// A row whose target is an index that counts.
fn reduce_row(n: u32, local: u32) -> Row {
    let start = n * dims.classes;
    let largest = largest_logit(start, local);
    var own = vec4f();
    for (var c = local; c < dims.classes; c += WORKGROUP) {
        let of_class = class_table[c];
        if of_class.x >= 0.0 {
            let z = logits[start + c] - largest;
            own += vec4f(exp(z), of_class.y * z, 0.0, 0.0);
        }
    }
    let sums = sum_over_group(own, local);
    let scale = select(1.0, class_table[targets[n]].x, dims.by_sample == 1u);
    let kept = loss.kept * select(class_table[targets[n]].x, 1.0, dims.by_sample == 1u);
    let z = logits[start + targets[n]] - largest;
    let product = loss.epsilon * sums.y + kept * z;
    return Row(largest, log(sums.x), scale * (loss.epsilon * dims.prior_total + kept), scale * product, scale, z, kept);
}

fn row_losses(n: u32, row: Row, local: u32) -> vec2f {
    return vec2f(row_loss(row), row.log_sum - row.own);
}

fn row_gradient(n: u32, row: Row, c: u32) -> f32 {
    if !takes_part(c) { return 0.0; }
    return class_gradient(n, row, c, row.scale * (loss.epsilon * class_table[c].y + select(0.0, row.kept, c == targets[n])));
}
