//! Dispatches that may take longer than a driver's watchdog allows, cut by ranges of their workgroups.
//!
//! A workgroup does the same wherever it is dispatched, so that a cut changes no bit. It must know its place in the
//! whole: a shader of this crate asks for it in one way, as `group` and `groups`, and [`source`] puts another origin
//! there.

use crate::plan::shaders::Shader;

/// How much work ([`crate::plan::Dispatch::work`]) a dispatch may hold: a tenth of a second on a GPU of 160 GFLOP/s.
/// Many systems end what takes longer than a second or two. What is shorter is not cut: each piece is launched by
/// itself.
pub const PIECE_WORK: u64 = 16_000_000_000;

/// How every pass asks for its place.
const PLACE: &str = "@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u";

/// A part of a dispatch: its workgroups, and what they are a part of. As `WholeDispatch` in the shader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The first workgroup's place along x and y.
    pub first: [u32; 2],
    /// Workgroups along x, y, z.
    pub workgroups: [u32; 3],
}

/// Bytes of a [`Piece`] in the shader.
pub const BLOCK_BYTES: usize = 16;

/// The pieces of a dispatch of so much work, of at most `most` each where it has workgroups enough: along x, or where
/// there is more than one row, row by row.
pub fn pieces(workgroups: [u32; 3], work: u64, most: u64) -> Vec<Piece> {
    let [x, y, z] = workgroups;
    let axis = usize::from(y > 1);
    let len = u64::from(workgroups[axis]);
    let count = work.div_ceil(most.max(1)).clamp(1, len.max(1));
    let start = |i: u64| (len * i / count) as u32;
    let piece = |i: u64| {
        let (mut first, mut size) = ([0; 2], [x, y, z]);
        first[axis] = start(i);
        size[axis] = start(i + 1) - start(i);
        Piece { first, workgroups: size }
    };
    (0..count).map(piece).collect()
}

/// The shader with its passes' places counted from `whole_dispatch`, at binding 0 of group 1; `None` for one that asks
/// for its place in another way.
pub fn source(shader: &Shader) -> Option<String> {
    let whole = shader.source();
    if whole.matches("@builtin(workgroup_id)").count() != whole.matches(PLACE).count() {
        return None;
    }
    let mut parts = whole.split(PLACE);
    let mut text = parts.next()?.to_owned();
    for part in parts {
        let (arguments, body) = part.split_once(") {")?;
        text += "@builtin(workgroup_id) part_group: vec3u";
        text += arguments;
        text += ") {\n    \
            let group = part_group + vec3u(whole_dispatch.first_x, whole_dispatch.first_y, 0u);\n    \
            let groups = vec3u(whole_dispatch.groups_x, whole_dispatch.groups_y, 1u);";
        text += body;
    }
    // At the end, since a shader may begin with directives.
    text += "\nstruct WholeDispatch { first_x: u32, first_y: u32, groups_x: u32, groups_y: u32 }\n\
             @group(1) @binding(0) var<uniform> whole_dispatch: WholeDispatch;\n";
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches a workgroup that no piece has, or two have, and a piece that is too long where it need not be.
    #[test]
    fn the_pieces_are_the_whole() {
        for (workgroups, work, most, count) in [
            ([10, 1, 1], 100, 100, 1),
            ([10, 1, 1], 101, 100, 2),
            ([10, 1, 1], 100, 30, 4),
            ([3, 1, 1], 1000, 1, 3),
            ([65_535, 7, 1], 1000, 400, 3),
            ([1, 1, 1], u64::MAX, 1, 1),
            ([5, 1, 1], 0, 0, 1),
        ] {
            let pieces = pieces(workgroups, work, most);
            assert_eq!(pieces.len(), count, "{pieces:?}");
            let mut at = [0, 0];
            let axis = usize::from(workgroups[1] > 1);
            for piece in &pieces {
                assert_eq!(piece.first, at, "{pieces:?}");
                assert!(piece.workgroups.iter().all(|&n| n > 0), "{pieces:?}");
                assert_eq!(piece.workgroups[1 - axis], workgroups[1 - axis]);
                at[axis] += piece.workgroups[axis];
            }
            assert_eq!(at[axis], workgroups[axis], "{pieces:?}");
        }
    }

    /// Catches a pass that asks for its place in another way, and a name that is taken.
    #[test]
    fn every_shader_can_be_cut() {
        for shader in crate::ops::shaders() {
            let text = source(shader).unwrap_or_else(|| panic!("{shader:?}: expected `{PLACE}`"));
            let module = naga::front::wgsl::parse_str(&text)
                .unwrap_or_else(|error| panic!("{shader:?}: {}", error.emit_to_string(&text)));
            let capabilities = crate::plan::shaders::capabilities(shader.name);
            naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities)
                .validate(&module)
                .unwrap_or_else(|error| panic!("{shader:?}: {}", error.emit_to_string(&text)));
            assert!(!text.contains("@builtin(num_workgroups)"), "{shader:?}");
        }
        static OTHER: Shader =
            Shader::new("other", &["@compute @workgroup_size(1) fn f(@builtin(workgroup_id) g: vec3u) { }"]);
        assert_eq!(source(&OTHER), None);
    }
}
