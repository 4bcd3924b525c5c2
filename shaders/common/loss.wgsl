// The passes of a loss over rows of logits: losses, gradient, or both at once, fused with the softmax. A loss builds on
// this file, and gives what one row costs and its gradient:
//
//   dims: classes, stride                           elements from one row of dlogits to the next; zeros past `classes`
//   struct Row, counts(n) -> bool                   what a row's sums come to; whether row n is not ignored
//   reduce_row(n, local) -> Row                     by the whole workgroup
//   row_losses(n, row, local) -> vec2f              loss and nll, by the whole workgroup
//   row_gradient(n, row, c) -> f32                  d loss / d logit of class c
//
// One workgroup owns one row; its threads stride over the classes, so any number of classes fits. Sums are trees of
// fixed shape: the same bits every time. A row that is ignored is not read: its losses and gradient are 0 whatever its
// logits are.
@group(0) @binding(2) var<storage, read> logits: array<f32>;          // [n, classes]
@group(0) @binding(3) var<storage, read> targets: array<u32>;         // [n]
@group(0) @binding(4) var<storage, read_write> losses: array<vec2f>;  // [n]: loss, nll
@group(0) @binding(5) var<storage, read> dloss: array<f32>;           // [n]: the upstream gradient of each loss
@group(0) @binding(6) var<storage, read_write> dlogits: array<f32>;   // [n, stride]

fn write_zeros(n: u32, local: u32) {
    for (var c = local; c < dims.stride; c += WORKGROUP) {
        dlogits[n * dims.stride + c] = 0.0;
    }
}

fn write_gradient(n: u32, row: Row, upstream: f32, local: u32) {
    for (var c = local; c < dims.stride; c += WORKGROUP) {
        var gradient = 0.0;
        if c < dims.classes { gradient = upstream * row_gradient(n, row, c); }
        dlogits[n * dims.stride + c] = gradient;
    }
}

// The losses alone.
@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let n = flat_group(group, groups);
    if n >= batch.count { return; }
    if !counts(n) {
        if local == 0u { losses[n] = vec2f(); }
        return;
    }
    let found = row_losses(n, reduce_row(n, local), local);
    if local == 0u { losses[n] = found; }
}

// The gradient alone, for any upstream gradient (PyTorch's reduction='none').
@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let n = flat_group(group, groups);
    if n >= batch.count { return; }
    if !counts(n) {
        write_zeros(n, local);
        return;
    }
    write_gradient(n, reduce_row(n, local), dloss[n], local);
}

// Both, where the upstream gradient is one number for all rows (reduction='mean' or 'sum').
@compute @workgroup_size(WORKGROUP)
fn forward_backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                    @builtin(local_invocation_index) local: u32) {
    let n = flat_group(group, groups);
    if n >= batch.count { return; }
    if !counts(n) {
        if local == 0u { losses[n] = vec2f(); }
        write_zeros(n, local);
        return;
    }
    let row = reduce_row(n, local);
    let found = row_losses(n, row, local);
    if local == 0u { losses[n] = found; }
    write_gradient(n, row, loss.dloss, local);
}

