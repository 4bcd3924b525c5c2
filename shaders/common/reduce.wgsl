// Sums and maxima over a workgroup, as trees of fixed shape: the same bits every time. Every thread gets the result.
var<workgroup> scratch: array<vec4f, WORKGROUP>;

// The sums of four numbers of each thread.
fn sum_over_group(value: vec4f, local: u32) -> vec4f {
    scratch[local] = value;
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half { scratch[local] += scratch[local + half]; }
    }
    workgroupBarrier();
    let total = scratch[0];
    workgroupBarrier();
    return total;
}

fn max_over_group(value: f32, local: u32) -> f32 {
    scratch[local].x = value;
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half { scratch[local].x = max(scratch[local].x, scratch[local + half].x); }
    }
    workgroupBarrier();
    let largest = scratch[0].x;
    workgroupBarrier();
    return largest;
}
