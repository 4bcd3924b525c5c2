// What changes from one training step to the next. One such block per step, bound at a dynamic offset.
struct Step {
    count: u32,        // images in this batch
    first: u32,        // where the batch starts in the epoch's order
    slot: u32,         // where the batch's losses go
    dloss: f32,        // the loss's upstream gradient: 1 / count for the mean
    dnll: f32,         // what the nll is multiplied by: 1 / the images that are not ignored
    keep: f32,         // the parameter is first multiplied by this (AdamW's decoupled decay)
    l2: f32,           // the L2 term's factor in the gradient
    step_size: f32,    // Adam: lr / (1 - b1^t)
    denominator: f32,  // Adam: sqrt(1 - b2^t)
    on: f32,           // the smoothed target's mass on the true class, and off on each other one
    off: f32,
    kept: f32,         // what the target keeps of its own: on - off, or 1 - e; rounded once, on the host
    epsilon: f32,      // e, what goes by the prior
    stamp: u32,        // a number that no other step of this plan had: what holds it is of this step
}
@group(0) @binding(0) var<uniform> batch: Step;
