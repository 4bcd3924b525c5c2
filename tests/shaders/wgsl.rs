//! Every shader stays within what WebGPU guarantees on every device.

use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module};
use smoothcnn::ops::shaders;
use smoothcnn::plan::shaders::{BindingKind, Shader, capabilities};

fn parse(shader: &Shader) -> (Module, ModuleInfo) {
    let fail = |error: String| -> ! { panic!("{}.wgsl: {error}", shader.name) };
    let module = naga::front::wgsl::parse_str(shader.source())
        .unwrap_or_else(|error| fail(error.emit_to_string(shader.source())));
    let info = Validator::new(ValidationFlags::all(), capabilities(shader.name))
        .validate(&module)
        .unwrap_or_else(|error| fail(error.emit_to_string(shader.source())));
    (module, info)
}

/// Catches WGSL that is wrong or needs an optional feature that nobody checks, which a run would only meet on a device
/// without it. The forms of kernels that every device runs need none.
#[test]
fn every_shader_is_valid_with_the_capabilities_that_are_checked() {
    let needing: Vec<_> = shaders().filter(|s| capabilities(s.name) != Capabilities::empty()).collect();
    assert!(
        needing.iter().all(|shader| shader.file.ends_with("_lanes") || shader.name.ends_with("_f16")),
        "{needing:?}"
    );
    for shader in shaders() {
        let (module, _) = parse(shader);
        assert!(!module.entry_points.is_empty(), "{shader:?} has no entry point");
        assert!(module.entry_points.iter().all(|point| point.stage == naga::ShaderStage::Compute), "{shader:?}");
    }
}

/// Catches a copied file that kept its old name, and a name that is not the file's stem and its storage.
#[test]
fn names_are_the_files_stems_and_differ() {
    let names: std::collections::BTreeSet<_> = shaders().map(|shader| shader.name).collect();
    assert_eq!(names.len(), shaders().count());
    assert!(shaders().all(|shader| [shader.file, &format!("{}_f16", shader.file)].contains(&shader.name)));
    let names: std::collections::BTreeSet<_> = shaders().map(|shader| shader.file).collect();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let stems: std::collections::BTreeSet<_> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "wgsl"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert!(stems.iter().map(String::as_str).eq(names), "files {stems:?}");
}

/// Catches a binding in a second group or two variables under one number: the engine binds group 0, by number.
#[test]
fn bindings_are_in_group_0_under_their_own_numbers() {
    for shader in shaders() {
        let (module, _) = parse(shader);
        let mut numbers = vec![];
        for (_, variable) in module.global_variables.iter() {
            if let Some(binding) = &variable.binding {
                assert_eq!(binding.group, 0, "{shader:?}: {:?}", variable.name);
                numbers.push(binding.binding);
            }
        }
        let count = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), count, "{shader:?} has two bindings under one number");
    }
}

/// Catches a workgroup, its memory or a list of buffers beyond WebGPU's default limits.
#[test]
fn entry_points_stay_within_the_default_limits() {
    for shader in shaders() {
        let (module, info) = parse(shader);
        for (i, point) in module.entry_points.iter().enumerate() {
            let at = format!("{}.wgsl:{}", shader.name, point.name);
            let [x, y, z] = point.workgroup_size;
            let invocations = u64::from(x) * u64::from(y) * u64::from(z);
            assert!((1..=256).contains(&invocations) && z <= 64, "{at}: {x}x{y}x{z} invocations");

            let used = module.global_variables.iter().filter(|(h, _)| !info.get_entry_point(i)[*h].is_empty());
            let memory: u32 = used
                .filter(|(_, variable)| variable.space == AddressSpace::WorkGroup)
                // Each variable starts at a multiple of at most 16 bytes.
                .map(|(_, variable)| module.types[variable.ty].inner.size(module.to_ctx()).next_multiple_of(16))
                .sum();
            assert!(memory <= 16 << 10, "{at}: {memory} bytes of workgroup memory");

            let bindings = &shader.entry(&point.name).unwrap_or_else(|| panic!("{at} is not reflected")).bindings;
            let storage = bindings.iter().filter(|b| matches!(b.kind, BindingKind::Storage { .. })).count();
            assert!(storage <= 8, "{at}: {storage} storage buffers");
            assert!(bindings.len() - storage <= 12, "{at}: too many uniform blocks");
        }
    }
}

/// Catches a reflection that drops a binding, calls a read-only one writable, or gives a workgroup another size: the
/// bind group layouts are made from it.
#[test]
fn reflection_agrees_with_the_source() {
    for shader in shaders() {
        let (module, info) = parse(shader);
        assert_eq!(shader.entries().len(), module.entry_points.len(), "{shader:?}");
        for (i, point) in module.entry_points.iter().enumerate() {
            let entry = shader.entry(&point.name).unwrap();
            assert_eq!(entry.workgroup_size, point.workgroup_size, "{shader:?} {}", point.name);
            let mut bound = module
                .global_variables
                .iter()
                .filter(|(handle, variable)| variable.binding.is_some() && !info.get_entry_point(i)[*handle].is_empty())
                .map(|(_, variable)| {
                    let writable = matches!(
                        variable.space,
                        AddressSpace::Storage { access } if access.contains(naga::StorageAccess::STORE)
                    );
                    (variable.binding.unwrap().binding, variable.name.clone().unwrap(), writable)
                })
                .collect::<Vec<_>>();
            bound.sort();
            let reflected: Vec<_> = entry
                .bindings
                .iter()
                .map(|b| (b.number, b.name.clone(), b.kind == BindingKind::Storage { writable: true }))
                .collect();
            assert_eq!(bound, reflected, "{shader:?} {}", point.name);
        }
    }
}

/// Catches a uniform block that is not laid out as its owner on the host has it, and one that nobody owns. (The blocks
/// `batch` and `dims` are compared as each pass is recorded.)
#[test]
fn uniform_blocks_are_those_of_their_owners() {
    use smoothcnn::plan::Uniform;
    let mut found = std::collections::BTreeSet::new();
    for shader in shaders() {
        for binding in shader.entries().iter().flat_map(|entry| &entry.bindings) {
            let BindingKind::Uniform { fields, .. } = &binding.kind else { continue };
            found.insert(binding.name.as_str());
            let ours = match binding.name.as_str() {
                "loss" => smoothcnn::loss::LossBlock::FIELDS,
                "optimizer" => smoothcnn::optimizer::OptimizerBlock::FIELDS,
                "part" => smoothcnn::ops::mix::PartBlock::FIELDS,
                _ => continue,
            };
            let theirs = fields.iter().map(|(name, offset)| (name.as_str(), *offset));
            assert!(theirs.eq(ours.iter().copied()), "{shader:?}: {fields:?}, expected {ours:?}");
        }
    }
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["batch", "dims", "loss", "optimizer", "part"]);
}
