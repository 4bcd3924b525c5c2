// The losses of a step, which are added by a kernel that runs anyway, so that no dispatch of its own is needed:
//
//   step_losses[slot].losses[i] = (dloss, dnll) * sum over n = i, i + WORKGROUP, ... of losses[n]; together the batch's
//   means
//
// What the threads of the workgroup have is added on the host, so that no thread waits for another.
@group(0) @binding(8) var<storage, read> losses: array<vec2f>;           // [n]: loss, nll
@group(0) @binding(9) var<storage, read_write> step_losses: array<Slot>;  // [slots]

// What the host reads of a step. Both words hold stamps and nobody clears them, so that what an earlier step left there
// says nothing of this one.
struct Slot {
    losses: array<vec2f, WORKGROUP>,
    stamp: u32,           // of the last step that wrote here
    broken: atomic<u32>,  // of the last step after which a parameter or a moment was not finite
}

fn add_losses(local: u32) {
    var own = vec2f();
    for (var n = local; n < batch.count; n += WORKGROUP) {
        own += losses[n];
    }
    step_losses[batch.slot].losses[local] = vec2f(loss.dloss, loss.dnll) * own;
    if local == 0u { step_losses[batch.slot].stamp = batch.stamp; }
}
