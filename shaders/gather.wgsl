// The next batch, gathered from the data set's bytes in the epoch's order, and normalised:
//
//   x[n,c,h,w] = byte * scale[c] + offset[c]         of image order[first + n]
//   targets[n] = labels[order[first + n]]
//
// One thread owns one pixel; the first pixel's thread also fetches the label. Where the kernel above reads the bytes
// itself, `labels_only` is left to do, one thread a label.

struct Gather {
    channels: u32,
    plane: u32,     // height * width
}
@group(0) @binding(1) var<uniform> dims: Gather;
@group(0) @binding(2) var<storage, read> images: array<u32>;          // [all images, channels, height, width], four bytes a word
@group(0) @binding(3) var<storage, read> labels: array<u32>;          // [all images]
@group(0) @binding(4) var<storage, read> order: array<u32>;           // [images of the epoch]
@group(0) @binding(5) var<storage, read> normalisation: array<vec2f>; // [channels]: scale, offset
@group(0) @binding(6) var<storage, read_write> x: array<f32>;         // [n, channels, height, width]
@group(0) @binding(7) var<storage, read_write> targets: array<u32>;   // [n]

@compute @workgroup_size(WORKGROUP)
fn gather(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
          @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    let pixels = dims.channels * dims.plane;
    if at >= batch.count * pixels { return; }
    let n = at / pixels;
    let pixel = at % pixels;
    let image = order[batch.first + n];
    if pixel == 0u { targets[n] = labels[image]; }

    let byte = image * pixels + pixel;
    let value = f32((images[byte / 4u] >> (byte % 4u * 8u)) & 255u);
    let affine = normalisation[pixel / dims.plane];
    x[at] = value * affine.x + affine.y;
}

@compute @workgroup_size(WORKGROUP)
fn labels_only(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
               @builtin(local_invocation_index) local: u32) {
    let n = flat_thread(group, groups, local);
    if n < batch.count { targets[n] = labels[order[batch.first + n]]; }
}
