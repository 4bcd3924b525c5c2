//! `smoothcnn devices`.

use serde::Serialize;
use smoothcnn::backend::gpu::choose::{adapters, choose, shader_compiler};
use smoothcnn::backend::gpu::device::{Gpu, describe};
use smoothcnn::backend::gpu::{Choice, DeviceKind};
use smoothcnn::{Result, memory};

use super::common;

/// Lists what can be computed on.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Device {
    index: usize,
    name: String,
    backend: String,
    kind: String,
    driver: String,
    max_binding_bytes: u64,
    workgroup_memory_bytes: u32,
    invocations: u32,
    subgroup_size: [u32; 2],
    timestamps: bool,
    /// What compiles the shaders, where that can be chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    shader_compiler: Option<String>,
    /// Why it cannot be opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Whether `--device auto` takes it.
    auto: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<u8> {
    let adapters = adapters()?;
    // WGPU_ADAPTER_NAME may ask for one that is not there: then there is no choice, and why is the answer.
    let (auto, reason) = match choose(DeviceKind::Auto, None, None) {
        Ok(Choice { index, reason, .. }) => (index, reason),
        Err(error) => (None, error.to_string()),
    };
    for (index, adapter) in adapters.iter().enumerate() {
        let (info, limits) = (adapter.get_info(), adapter.limits());
        let error = Gpu::open(adapter).err().map(|error| error.to_string());
        let compiler = shader_compiler(&info);
        if !args.json {
            common::print(format_args!(
                "{index}: {}\n   bindings to {}, {} invocations and {} of memory a workgroup, subgroups of {} to {}",
                describe(&info),
                memory::bytes(limits.max_storage_buffer_binding_size),
                limits.max_compute_invocations_per_workgroup,
                memory::bytes(limits.max_compute_workgroup_storage_size.into()),
                info.subgroup_min_size,
                info.subgroup_max_size,
            ))?;
            if let Some(compiler) = compiler {
                common::print(format_args!("   shaders compiled by {compiler}"))?;
            }
            if let Some(error) = error {
                common::print(format_args!("   cannot be opened: {error}"))?;
            }
            continue;
        }
        common::print_json(&Device {
            index,
            backend: info.backend.to_string(),
            kind: format!("{:?}", info.device_type),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            max_binding_bytes: limits.max_storage_buffer_binding_size,
            workgroup_memory_bytes: limits.max_compute_workgroup_storage_size,
            invocations: limits.max_compute_invocations_per_workgroup,
            subgroup_size: [info.subgroup_min_size, info.subgroup_max_size],
            timestamps: adapter.features().contains(wgpu::Features::TIMESTAMP_QUERY),
            name: info.name,
            shader_compiler: compiler,
            error,
            auto: auto == Some(index),
        })?;
    }
    if !args.json {
        if adapters.is_empty() {
            common::print("no GPU adapter found")?;
        }
        common::print(format_args!("cpu: the CPU path, {} threads", rayon::current_num_threads()))?;
        common::print(format_args!("--device auto: {reason}"))?;
    }
    Ok(0)
}
