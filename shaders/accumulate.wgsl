// The gradients of an update's batches, added up: sums = (0 with the first batch, else sums) + gradient. One thread
// owns four parameters; the first workgroup adds the batch's losses (common/slot.wgsl).

struct Accumulate {
    len: u32,       // a multiple of 4
    segments: u32,
    parted: u32,    // one past the last parameter that a segment holds
}
@group(0) @binding(1) var<uniform> dims: Accumulate;
@group(0) @binding(2) var<storage, read_write> sums: array<vec4f>;  // [len / 4]

@compute @workgroup_size(WORKGROUP)
fn add(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
       @builtin(local_invocation_index) local: u32) {
    if flat_group(group, groups) == 0u {
        add_losses(local);
        return;
    }
    let at = flat_thread(group, groups, local) - WORKGROUP;
    if at >= dims.len / 4u { return; }
    sums[at] = select(sums[at], vec4f(), part.before == 0u) + gradient(at, segment_of(at * 4u));
}
