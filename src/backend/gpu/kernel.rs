//! The only code that builds bind group layouts and pipelines, from what the shader says of itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::cut;
use super::device::{Gpu, Kernel};
use crate::Result;
use crate::plan::shaders::{BindingKind, EntryPoint, Shader};
use crate::plan::{Dispatch, Step};

/// How many of the step's uniform blocks the pass reads; its bind group takes a dynamic offset for each.
pub fn step_blocks(entry: &EntryPoint) -> usize {
    entry.bindings.iter().filter(|binding| Step::block(&binding.name).is_some()).count()
}

impl Gpu {
    /// The kernel of a dispatch, built on first use; `cut` is its source to be cut ([`cut::source`]), if it is.
    ///
    /// # Errors
    /// [`crate::Error::Gpu`] if the driver refuses it.
    pub fn kernel(&self, dispatch: &Dispatch, cut: Option<&str>) -> Result<Arc<Kernel>> {
        let key = (std::ptr::from_ref(dispatch.shader) as usize, dispatch.entry.name.as_str(), cut.is_some());
        let cache = || self.kernels.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(kernel) = cache().get(&key) {
            return Ok(kernel.clone());
        }
        let context = format!("building {}.wgsl, {}", dispatch.shader.name, key.1);
        let build = |pipelines| self.guarded(&context, || self.build(dispatch.shader, dispatch.entry, cut, pipelines));
        // A cache that is of no use must not stand in the way.
        let built = match build(self.pipelines.as_ref()) {
            Err(_) if self.pipelines.is_some() => build(None),
            other => other,
        };
        let kernel = Arc::new(built?);
        self.built.store(true, Ordering::Relaxed);
        cache().insert(key, kernel.clone());
        Ok(kernel)
    }

    fn build(
        &self,
        shader: &Shader,
        entry: &EntryPoint,
        cut: Option<&str>,
        pipelines: Option<&wgpu::PipelineCache>,
    ) -> Kernel {
        let label = format!("{}.{}", shader.name, entry.name);
        let layout_entry = |binding: &crate::plan::shaders::Binding| wgpu::BindGroupLayoutEntry {
            binding: binding.number,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: match binding.kind {
                    BindingKind::Uniform { .. } => wgpu::BufferBindingType::Uniform,
                    BindingKind::Storage { writable } => wgpu::BufferBindingType::Storage { read_only: !writable },
                },
                has_dynamic_offset: Step::block(&binding.name).is_some(),
                min_binding_size: Step::block(&binding.name)
                    .and_then(|_| std::num::NonZeroU64::new(Step::BLOCK_BYTES as u64)),
            },
            count: None,
        };
        let entries: Vec<_> = entry.bindings.iter().map(layout_entry).collect();
        let layout = self
            .device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(&label), entries: &entries });
        let cut_layout = cut.map(|_| {
            let ty = wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Uniform,
                has_dynamic_offset: true,
                min_binding_size: std::num::NonZeroU64::new(cut::BLOCK_BYTES as u64),
            };
            let entry =
                wgpu::BindGroupLayoutEntry { binding: 0, visibility: wgpu::ShaderStages::COMPUTE, ty, count: None };
            self.device
                .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(&label), entries: &[entry] })
        });
        let layouts: Vec<_> = [Some(&layout), cut_layout.as_ref()].into_iter().filter(Option::is_some).collect();
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(&label),
            bind_group_layouts: &layouts,
            immediate_size: 0,
        });
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(shader.name),
            source: wgpu::ShaderSource::Wgsl(cut.unwrap_or(shader.source()).into()),
        };
        let checks = wgpu::ShaderRuntimeChecks { force_loop_bounding: false, ..wgpu::ShaderRuntimeChecks::checked() };
        let module = if shader.own {
            // SAFETY: the only check given up is the one that ends infinite loops. Every loop of our shaders counts up
            // to (or halves down from) a bound that does not change in the loop, so each of them ends.
            unsafe { self.device.create_shader_module_trusted(descriptor, checks) }
        } else {
            self.device.create_shader_module(descriptor)
        };
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&label),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(&entry.name),
            compilation_options: wgpu::PipelineCompilationOptions {
                // Our shaders write every workgroup variable before they read it.
                zero_initialize_workgroup_memory: !shader.own,
                ..Default::default()
            },
            cache: pipelines,
        });
        Kernel { pipeline, layout, cut_layout }
    }
}
