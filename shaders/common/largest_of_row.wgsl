// The largest logit of the row that begins at `start`, by the whole workgroup. A loss whose classes all take part
// builds on it.
fn largest_of_row(start: u32, local: u32) -> f32 {
    // Every thread starts from a real logit: WGSL has no infinity to start from.
    var own = logits[start];
    for (var c = local; c < dims.classes; c += WORKGROUP) {
        own = max(own, logits[start + c]);
    }
    return max_over_group(own, local);
}
