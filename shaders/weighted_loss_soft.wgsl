// The general cross-entropy of weighted_loss.wgsl, where the target t is a distribution. It is read where the data set
// has it, by the epoch's order. No row is ignored. common/loss.wgsl has the passes.

@group(0) @binding(8) var<storage, read> soft_targets: array<f32>;  // [images of the data set, classes]
@group(0) @binding(9) var<storage, read> order: array<u32>;         // [images of the epoch]

fn counts(n: u32) -> bool { return true; }

// What a class of A has of a soft target's mass, before the row's scale.
fn soft_mass(of_class: vec2f, t: f32) -> f32 {
    return loss.epsilon * of_class.y + loss.kept * t * select(of_class.x, 1.0, dims.by_sample == 1u);
}

// Where the distribution of row n starts.
fn soft_start(n: u32) -> u32 {
    return order[batch.first + n] * dims.classes;
}

fn reduce_row(n: u32, local: u32) -> Row {
    let start = n * dims.classes;
    let soft = soft_start(n);
    let largest = largest_logit(start, local);
    var own = vec4f();
    for (var c = local; c < dims.classes; c += WORKGROUP) {
        let of_class = class_table[c];
        if of_class.x >= 0.0 {
            let z = logits[start + c] - largest;
            let t = soft_targets[soft + c];
            let mass = soft_mass(of_class, t);
            own += vec4f(exp(z), mass, mass * z, of_class.x * t);
        }
    }
    let sums = sum_over_group(own, local);
    let scale = select(1.0, sums.w, dims.by_sample == 1u);
    return Row(largest, log(sums.x), scale * sums.y, scale * sums.z, scale, 0.0, 0.0);
}

fn row_losses(n: u32, row: Row, local: u32) -> vec2f {
    let start = n * dims.classes;
    let soft = soft_start(n);
    var own = 0.0;
    for (var c = local; c < dims.classes; c += WORKGROUP) {
        if takes_part(c) { own += soft_targets[soft + c] * (row.log_sum - (logits[start + c] - row.largest)); }
    }
    return vec2f(row_loss(row), sum_over_group(vec4f(own, 0.0, 0.0, 0.0), local).x);
}

fn row_gradient(n: u32, row: Row, c: u32) -> f32 {
    if !takes_part(c) { return 0.0; }
    return class_gradient(n, row, c, row.scale * soft_mass(class_table[c], soft_targets[soft_start(n) + c]));
}
