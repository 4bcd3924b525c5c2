// The batch of a training step, or of inference. One such block per step, bound at a dynamic offset.
struct Batch {
    count: u32,      // images in this batch
    first: u32,      // where the batch starts in the epoch's order
    slot: u32,       // where the batch's losses go
    stamp: u32,      // a number that no other step of this plan had: what holds it is of this step
    seed_low: u32,   // the run's seed, and the update's number, for layers that draw random numbers
    seed_high: u32,
    step_low: u32,
    step_high: u32,
}
@group(0) @binding(0) var<uniform> batch: Batch;
