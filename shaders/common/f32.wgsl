// Activations as they are computed: what common/f16.wgsl is for halves.

alias Quad = vec4f;  // four elements side by side
alias Word = f32;    // what a tensor is made of that is written element by element

fn unpack(q: Quad) -> vec4f { return q; }
