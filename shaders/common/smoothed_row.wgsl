// What a row's sums come to for a cross-entropy with smoothing: z = x - max(x), s = ln(sum over c of exp(z[c])).
struct Row {
    largest: f32,  // max(x)
    log_sum: f32,  // s
    sum: f32,      // sum of z
}

fn reduce_row(n: u32, local: u32) -> Row {
    let start = n * dims.classes;
    let largest = largest_of_row(start, local);
    var own = vec2f();
    for (var c = local; c < dims.classes; c += WORKGROUP) {
        let z = logits[start + c] - largest;
        own += vec2f(exp(z), z);
    }
    let sums = sum_over_group(vec4f(own, 0.0, 0.0), local);
    return Row(largest, log(sums.x), sums.y);
}
