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
    width: u32,
    shift: u32,     // augmentation: by up to so many pixels each way,
    reflect: u32,   // what is beyond the edge is reflected (1) or black (0),
    flip: u32,      // half of the images are mirrored (1),
    cutout: u32,    // the side of the square that is grey
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

// The same of images that are augmented: what is drawn, and where pixels go, is as in `src/data/augment.rs`.
@compute @workgroup_size(WORKGROUP)
fn gather_augmented(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                    @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    let pixels = dims.channels * dims.plane;
    if at >= batch.count * pixels { return; }
    let n = at / pixels;
    let pixel = at % pixels;
    let image = order[batch.first + n];
    if pixel == 0u { targets[n] = labels[image]; }

    let size = vec2u(dims.plane / dims.width, dims.width);
    let here = vec2u(pixel % dims.plane / dims.width, pixel % dims.width);
    let drawn = image_random(n);
    // The upper half of a word, which is below 2^16, in 0..count.
    let moved = vec2u((drawn.x >> 16u) * (2u * dims.shift + 1u), (drawn.y >> 16u) * (2u * dims.shift + 1u)) >> vec2u(16u);
    let centre = (vec2u(drawn.w >> 16u, drawn.w & 0xffffu) * size) >> vec2u(16u);
    let flipped = dims.flip == 1u && drawn.z >> 31u == 1u;
    // Further by `shift` than in the image, so that nothing is below 0.
    let there = vec2u(here.x, select(here.y, dims.width - 1u - here.y, flipped)) + moved;
    let low = there < vec2u(dims.shift);
    let high = there >= size + dims.shift;
    let inside = select(select(there - dims.shift, vec2u(dims.shift) - there, low),
                        2u * (size - 1u) + dims.shift - there, high);
    let half = dims.cutout / 2u;
    let cut = all(here + half >= centre) && all(here + half < centre + dims.cutout);

    let byte = (image * dims.channels + pixel / dims.plane) * dims.plane + inside.x * dims.width + inside.y;
    var value = f32((images[byte / 4u] >> (byte % 4u * 8u)) & 255u);
    if dims.reflect == 0u && any(low | high) { value = 0.0; }
    if cut { value = 128.0; }
    let affine = normalisation[pixel / dims.plane];
    x[at] = value * affine.x + affine.y;
}

@compute @workgroup_size(WORKGROUP)
fn labels_only(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
               @builtin(local_invocation_index) local: u32) {
    let n = flat_thread(group, groups, local);
    if n < batch.count { targets[n] = labels[order[batch.first + n]]; }
}
