//! More workgroups than an axis has (65,535): the host folds them over two, and shaders unfold them.

use smoothcnn::check::layers::layer;
use smoothcnn::check::losses;
use smoothcnn::layer::{Layer, Shape};
use smoothcnn::loss::smoothed;
use smoothcnn::loss::smoothing::{Smoothing, Variant};
use smoothcnn::ops::Case;

use super::{GPU, assert_rows};

/// Catches an element, or a row of a loss, that nobody owns or that two own, once there is a second row of workgroups.
#[test]
fn threads_and_workgroups_beyond_one_axis() {
    let case = Case { n: 2, input: Shape::Features(2_200_000), layer: Layer::relu() };
    assert_rows(layer(&GPU, "relu", &case));
    let smoothing = Smoothing { variant: Variant::Uniform, epsilon: 0.1 };
    assert_rows(losses::loss(&GPU, "loss", &smoothed::cases::case(66_000, 2, 4.0, smoothing)));
}

/// Catches two kinds of work of which one loses a workgroup to the other. The kernels that have two need gigabytes
/// before they fold, so the function runs alone.
#[test]
fn two_kinds_of_work_share_every_workgroup() {
    for groups in [[1, 1], [97, 1], [65_535, 1], [33_000, 2], [3, 3]] {
        let all = groups[0] * groups[1];
        for first in [0, 1, all / 3, all - 1, all] {
            let wrong = shared(groups, first).into_iter().enumerate().find(|(_, times)| *times != 1);
            assert_eq!(
                wrong, None,
                "a part of the work, and how often it is done: {groups:?} workgroups, {first} of the first kind"
            );
        }
    }
}

/// How often each part of the work is done, the first kind's parts before the second's.
fn shared(groups: [u32; 2], first: u32) -> Vec<u32> {
    let source = format!(
        "{}
        @group(0) @binding(0) var<storage, read_write> done: array<atomic<u32>>;
        @compute @workgroup_size(1)
        fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {{
            let own = share(group, groups, {first}u);
            atomicAdd(&done[select({first}u + own.at, own.at, own.first)], 1u);
        }}",
        include_str!("../../shaders/common/dispatch.wgsl")
    );
    let device = &GPU.device;
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("share"),
        source: wgpu::ShaderSource::Wgsl(source.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("share"),
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    });
    let buffer = |usage| {
        let size = 4 * u64::from(groups[0] * groups[1]);
        device.create_buffer(&wgpu::BufferDescriptor { label: Some("done"), size, usage, mapped_at_creation: false })
    };
    let done = buffer(wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC);
    let read = buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
    let bindings = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some("share"),
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[wgpu::BindGroupEntry { binding: 0, resource: done.as_entire_binding() }],
    });
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &bindings, &[]);
        pass.dispatch_workgroups(groups[0], groups[1], 1);
    }
    encoder.copy_buffer_to_buffer(&done, 0, &read, 0, done.size());
    GPU.queue.submit([encoder.finish()]);
    read.slice(..).map_async(wgpu::MapMode::Read, |mapped| mapped.expect("mapped"));
    device.poll(wgpu::PollType::wait_indefinitely()).expect("the device answers");
    let words = read.slice(..).get_mapped_range().expect("mapped");
    bytemuck::cast_slice(&words).to_vec()
}
