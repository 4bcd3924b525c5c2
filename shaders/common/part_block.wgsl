// Which part of an update a batch is, and how its images are mixed. One such block per step, bound at a dynamic offset.
struct Part {
    before: u32,  // images of the update that came in batches before this one
    share: f32,   // the share that an image's own label has in its loss
    pixels: f32,  // the share that its own pixels have, outside a rectangle that is its partner's:
    top: u32,     // its first row,
    bottom: u32,  // one past its last,
    left: u32,    // its first column,
    right: u32,   // one past its last
}
@group(0) @binding(12) var<uniform> part: Part;
