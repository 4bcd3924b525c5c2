// What the loss changes from one training step to the next. One such block per step, bound at a dynamic offset.
struct Loss {
    dloss: f32,    // the loss's upstream gradient: 1 / count for the mean
    dnll: f32,     // what the nll is multiplied by: 1 / the images that are not ignored
    on: f32,       // the smoothed target's mass on the true class, and off on each other one
    off: f32,
    kept: f32,     // what the target keeps of its own: on - off, or 1 - e; rounded once, on the host
    epsilon: f32,  // e, what goes by the prior
}
@group(0) @binding(10) var<uniform> loss: Loss;
