// Seals a result. Every thread leaves the step's stamp, and its share of a checksum of the words. The host, which knows
// the stamp and works the same sum out of what it read, then knows that the device came to this step's end and that the
// whole result arrived, whatever the driver says.
//
//   seal[i] = (stamp, sum over w = i, i + threads, ... of (2 w + 1) * words[w]), modulo 2^32
//
// The factors are odd, so that no change of a single word leaves the sum as it was; and each its own, because a sum of
// the words alone would not notice that they changed places.

struct Seal {
    len: u32,  // so many words
    row: u32,  // and so many more for each of the batch's images
}
@group(0) @binding(1) var<uniform> dims: Seal;
@group(0) @binding(2) var<storage, read> words: array<u32>;
@group(0) @binding(3) var<storage, read_write> seal: array<vec2u>;  // [threads]

@compute @workgroup_size(WORKGROUP)
fn close(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
         @builtin(local_invocation_index) local: u32) {
    let thread = flat_thread(group, groups, local);
    let threads = groups.x * groups.y * WORKGROUP;
    let count = dims.len + dims.row * batch.count;
    var sum = 0u;
    for (var w = thread; w < count; w += threads) {
        sum += (2u * w + 1u) * words[w];
    }
    seal[thread] = vec2u(batch.stamp, sum);
}
